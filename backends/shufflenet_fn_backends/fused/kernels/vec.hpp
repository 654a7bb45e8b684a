// Vectors of VL floats in GCC's and Clang's portable notation, over float and bfloat16 in memory.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace sfn {

#if defined(__AVX512F__)
constexpr int VL = 16;
#elif defined(__AVX__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef float vf_mem __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint32_t vu_mem __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint16_t vh_mem __attribute__((vector_size(VL * 2), aligned(2), may_alias));
typedef uint8_t vb_mem __attribute__((vector_size(VL), aligned(1), may_alias));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));
typedef uint8_t vb __attribute__((vector_size(VL)));

struct bf16 {
  uint16_t bits;
};

// Minus zero, which is exact; plus zero is not, for -0, and would cost an addition.
inline vf splat(float x) { return x - vf{}; }

inline vh rounded(vf v) {
#if defined(__AVX512BF16__)
  return (vh)_mm512_cvtneps_pbh((__m512)v);  // takes subnormals for zero
#else
  // To nearest even; the rounding would carry a NaN's mantissa into the sign, so NaN is set apart.
  vu u = (vu)v;
  vu to_even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  vi nan = v != v;
  return __builtin_convertvector((to_even & ~(vu)nan) | (0x7fc0u & (vu)nan), vh);
#endif
}
inline vf widened(vh h) { return (vf)(__builtin_convertvector(h, vu) << 16); }

inline vf load(const float* p) { return *reinterpret_cast<const vf_mem*>(p); }
inline vf load(const bf16* p) { return widened(*reinterpret_cast<const vh_mem*>(p)); }
inline vi load(const uint8_t* p) {
  vb b = *reinterpret_cast<const vb_mem*>(p);
  return __builtin_convertvector(b, vi);
}

inline void store(float* p, vf v) { *reinterpret_cast<vf_mem*>(p) = v; }
inline void store(bf16* p, vf v) { *reinterpret_cast<vh_mem*>(p) = rounded(v); }
inline void store(uint8_t* p, vi v) {
  *reinterpret_cast<vb_mem*>(p) = __builtin_convertvector(v, vb);
}

// What a store to T would leave behind: moments are those of the values as they are kept.
inline vf kept(vf v, const float*) { return v; }
inline vf kept(vf v, const bf16*) { return widened(rounded(v)); }

// The first n lanes, for feature maps with fewer than VL channels.
template <class T>
inline vf load_n(const T* p, int64_t n) {
  if (n >= VL) return load(p);
  T buffer[VL] = {};
  std::memcpy(buffer, p, n * sizeof(T));
  return load(buffer);
}
inline vi load_index(const uint8_t* p, int64_t n) {
  if (n >= VL) return load(p);
  uint8_t buffer[VL] = {};
  std::memcpy(buffer, p, n);
  return load(buffer);
}
template <class T, class V>
inline void store_n(T* p, V v, int64_t n) {
  if (n >= VL) return store(p, v);
  T buffer[VL];
  store(buffer, v);
  std::memcpy(p, buffer, n * sizeof(T));
}

inline vf select(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }
// torch's rule: a NaN stays one.
inline vf relu(vf v) { return (vf)((vi)v & ~(v <= 0.0f)); }

constexpr int64_t pad(int64_t n) { return (n + VL - 1) / VL * VL; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Channels in vectors: the last one ends at C and may overlap the one before, so that no lane is
// masked. `fresh` is the first lane that no earlier vector held; fewer than VL channels are one
// partial vector.
struct Strip {
  int64_t start, lanes, fresh;
};
inline int64_t strips(int64_t channels) { return (channels + VL - 1) / VL; }
inline Strip strip(int64_t channels, int64_t number) {
  if (channels < VL) return {0, channels, 0};
  int64_t start = least(number * VL, channels - VL);
  return {start, VL, number * VL - start};
}

// f(lanes), with the usual number of them as a constant: inner loops then have no partial vectors.
template <class F>
inline void by_lanes(int64_t lanes, F&& f) {
  if (lanes == VL)
    f(std::integral_constant<int64_t, VL>());
  else
    f(lanes);
}

}  // namespace sfn
