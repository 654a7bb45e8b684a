// Memory that is used after a product, brought to the second-level cache while the product computes.
#pragma once
#include <vector>

#include "vec.hpp"

namespace sfn {

class Ahead {
 public:
  explicit Ahead(int64_t rows) : rows_(rows) {}

  // Rows of `count` elements, `stride` elements apart, which will be read.
  template <class T>
  void read(const T* at, int64_t stride, int64_t count) {
    reads_.push_back(stream(at, stride, count));
  }
  template <class T>
  void write(const T* at, int64_t stride, int64_t count) {
    writes_.push_back(stream(at, stride, count));
  }

  // Divide the rows among so many calls.
  void spread(int64_t calls) { batch_ = rows_ / most(1, calls) + 1; }

  void operator()() {
    for (int64_t r = 0; r < batch_ && rows_ > 0; ++r, --rows_) {
      for (Stream& s : reads_) {
        for (int64_t byte = 0; byte < s.bytes; byte += 64) __builtin_prefetch(s.at + byte, 0, 2);
        s.at += s.stride;
      }
      for (Stream& s : writes_) {
        for (int64_t byte = 0; byte < s.bytes; byte += 64) __builtin_prefetch(s.at + byte, 1, 2);
        s.at += s.stride;
      }
    }
  }

 private:
  struct Stream {
    const char* at;
    int64_t stride, bytes;
  };
  template <class T>
  static Stream stream(const T* at, int64_t stride, int64_t count) {
    constexpr int64_t size = sizeof(T);
    return {reinterpret_cast<const char*>(at), stride * size, count * size};
  }

  std::vector<Stream> reads_, writes_;
  int64_t rows_, batch_ = 0;
};

}  // namespace sfn
