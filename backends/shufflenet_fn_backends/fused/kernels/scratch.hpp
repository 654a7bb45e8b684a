// Memory for one call: grows to the largest call of a thread and is then reused.
#pragma once
#include <cstdlib>
#include <new>

#include "vec.hpp"

namespace sfn {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // At least `count` floats, zero when they are handed out for the first time.
  float* floats(int64_t count) {
    if (count > size_) {
      std::free(data_);
      size_ = 0;
      int64_t bytes = (count * 4 + 4095) / 4096 * 4096;
      data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
      if (data_ == nullptr) throw std::bad_alloc();
      std::memset(data_, 0, bytes);
      size_ = count;
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};

// A contiguous share of `count` items for thread `index` of `threads`.
struct Share {
  int64_t begin, end;
};
inline Share share(int64_t count, int64_t index, int64_t threads) {
  return {count * index / threads, count * (index + 1) / threads};
}

}  // namespace sfn
