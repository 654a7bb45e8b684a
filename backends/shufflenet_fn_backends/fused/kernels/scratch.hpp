// Memory for one call: grows to the largest call of a thread and is then reused.
#pragma once
#include <atomic>
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
  // Elements of four bytes.
  template <class E>
  E* zeros(int64_t count) {
    return static_cast<E*>(std::memset(floats(count), 0, count * 4));
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

// body(t) for every share t, in parallel. Shares may run on the same thread, because the OpenMP
// runtime may provide fewer threads than requested. Exceptions must not leave a parallel region, so
// they are thrown after it.
template <class F>
inline void for_shares(int64_t shares, F&& body) {
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(static, 1) num_threads(shares)
  for (int64_t t = 0; t < shares; ++t) {
    try {
      body(t);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  }
  if (failed) throw std::bad_alloc();
}

}  // namespace sfn
