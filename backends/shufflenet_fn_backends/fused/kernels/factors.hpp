// What products multiply: floats or, where the processor multiplies them, pairs of bfloat16.
#pragma once
#include "vec.hpp"

namespace sfn {

// Two successive terms of a sum.
struct Pair {
  bf16 first, second;
};

inline vu load(const Pair* p) { return *reinterpret_cast<const vu_mem*>(p); }
inline void store(Pair* p, vu v) { *reinterpret_cast<vu_mem*>(p) = v; }
inline vu splat(Pair p) {
  uint32_t bits;
  std::memcpy(&bits, &p, 4);
  return vu{} + bits;
}
// In every lane, a value of v and one of w.
inline vu paired(vf v, vf w) {
  return __builtin_convertvector(rounded(v), vu) | __builtin_convertvector(rounded(w), vu) << 16;
}

inline vf multiply_add(vf sum, vf a, vf b) { return sum + a * b; }

// Factor<T>: what products of feature maps in T multiply.
template <class T>
struct FactorOf {
  using Type = float;
};
#if defined(__AVX512BF16__)
template <>
struct FactorOf<bf16> {
  using Type = Pair;
};
inline vf multiply_add(vf sum, vu a, vu b) {
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif
template <class T>
using Factor = typename FactorOf<T>::Type;

template <class E>
constexpr bool kPairs = std::is_same<E, Pair>::value;
// Factors that hold `count` terms of a sum.
template <class E>
constexpr int64_t factors(int64_t count) {
  return kPairs<E> ? (count + 1) / 2 : count;
}

// Element (k, n) of the right matrix of a product, [factors][ld].
inline void put_right(float* to, int64_t ld, int64_t k, int64_t n, float v) { to[k * ld + n] = v; }
inline void put_right(Pair* to, int64_t ld, int64_t k, int64_t n, float v) {
  Pair& pair = to[k / 2 * ld + n];
  (k % 2 == 0 ? pair.first : pair.second).bits = rounded(splat(v))[0];
}

// A block of rows by channels for products that sum over channels (`across`) or over rows (`down`). The
// number of rows in memory is even; a row has `ld` channels, a multiple of VL.
template <class E, bool ACROSS, bool DOWN>
struct Block {
  E *across, *down;
  int64_t ld;

  Block(float* memory, int64_t rows, int64_t ld) : ld(ld) {
    across = down = reinterpret_cast<E*>(memory);
    if (ACROSS && kPairs<E>) down += factors<E>(rows * ld);
  }
  static int64_t floats(int64_t rows, int64_t ld) {
    return factors<E>(rows * ld) * (ACROSS && DOWN && kPairs<E> ? 2 : 1);
  }
  int64_t across_row() const { return factors<E>(ld); }

  // What follows an odd number of channels is multiplied by zero, so it must be finite.
  void end_at(int64_t channels, int64_t rows) {
    if constexpr (ACROSS && kPairs<E>)
      for (int64_t r = 0; r < rows && channels % 2 != 0; ++r)
        across[r * across_row() + channels / 2].second.bits = 0;
  }

  // A vector of channels of an even row and of the next.
  template <class Lanes>
  void put(int64_t row, int64_t channel, vf v, vf w, Lanes lanes) const {
    if constexpr (!kPairs<E>) {
      store_n(across + row * ld + channel, v, lanes);
      store_n(across + (row + 1) * ld + channel, w, lanes);
    } else {
      if (ACROSS) {
        bf16* to = reinterpret_cast<bf16*>(across + row * across_row()) + channel;
        store_n(to, v, lanes);
        store_n(to + ld, w, lanes);
      }
      if (DOWN) store_n(down + row / 2 * ld + channel, paired(v, w), lanes);
    }
  }
};

// put(r, row(r), row(r + 1)) for every second r; a row that is missing at the end is zero.
template <class Row, class Put>
inline void by_twos(int64_t rows, Row&& row, Put&& put) {
  int64_t r = 0;
  for (; r + 2 <= rows; r += 2) put(r, row(r), row(r + 1));
  if (r < rows) put(r, row(r), vf{});
}

}  // namespace sfn
