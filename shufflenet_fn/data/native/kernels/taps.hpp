// The antialiased bilinear filter along one axis, as integers: which source pixels make a pixel of the
// result, and with what weights.
//
// A triangle whose half-width is one pixel of the result where the image shrinks and one source pixel where
// it grows; weights are normalised, then rounded to multiples of 2^-precision with the largest precision at
// which all of them fit 16 bits. That is what Pillow and torch compute for uint8, and as all sums are of
// integers, the result is the same to the bit however they are added.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace sfn {

constexpr int kMostPrecision = 22;

struct Taps {
  // Of result pixel i: source pixels first[i] .. first[i] + used[i] - 1; weights at i * stride, zero after
  // them. `stride` is a multiple of 4.
  std::vector<int32_t> first, used;
  std::vector<int16_t> weights;
  int32_t stride = 0, precision = 0;
  // Source pixels that are used at all: [low, high).
  int32_t low = 0, high = 0;

  int32_t size() const { return static_cast<int32_t>(first.size()); }
  const int16_t* weights_of(int32_t i) const { return weights.data() + static_cast<size_t>(i) * stride; }
};

namespace detail {

inline double triangle(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

struct Span {
  int64_t first, used;
  double centre;
};

inline Span span_of(int64_t i, double scale, double support, int64_t source, int64_t most) {
  const double centre = scale * (static_cast<double>(i) + 0.5);
  const int64_t first = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
  const int64_t used = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), source) - first;
  return {first, std::clamp<int64_t>(used, 0, most), centre};
}

// Each pixel is itself.
inline void identity(Taps& taps, int64_t begin, int64_t count) {
  taps.stride = 4;
  taps.precision = 14;
  taps.weights.assign(static_cast<size_t>(count) * 4, 0);
  for (int64_t k = 0; k < count; ++k) {
    taps.first[k] = static_cast<int32_t>(begin + k);
    taps.used[k] = 1;
    taps.weights[static_cast<size_t>(k) * 4] = 1 << 14;
  }
}

}  // namespace detail

// The taps of result pixels begin .. begin + count - 1 of `result`, from `source` pixels of which the first
// `extent` (need not be whole) are wanted. `scratch` is memory to use again.
inline void make_taps(Taps& taps, std::vector<double>& scratch, int64_t source, double extent, int64_t result,
                      int64_t begin, int64_t count) {
  taps.first.resize(count);
  taps.used.resize(count);
  if (source == result) {
    detail::identity(taps, begin, count);
  } else {
    const double whole = static_cast<double>(source);
    const double scale = extent == whole ? whole / static_cast<double>(result)
                                         : 1.0 / (static_cast<double>(result) / extent);
    const double support = scale >= 1.0 ? scale : 1.0;
    const double inverse = scale >= 1.0 ? 1.0 / scale : 1.0;
    const int64_t most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
    scratch.assign(static_cast<size_t>(most * count), 0.0);
    double largest = 0.0;
    // The precision follows from the weights of the whole axis, not of the window alone.
    for (int64_t i = 0; i < result; ++i) {
      const bool wanted = begin <= i && i < begin + count;
      const auto span = detail::span_of(i, scale, support, source, most);
      double total = 0.0, top = 0.0;
      double* weights = wanted ? scratch.data() + (i - begin) * most : nullptr;
      for (int64_t j = 0; j < span.used; ++j) {
        const double weight =
            detail::triangle((static_cast<double>(j + span.first) - span.centre + 0.5) * inverse);
        total += weight;
        top = std::max(top, weight);
        if (wanted) weights[j] = weight;
      }
      if (total != 0.0) largest = std::max(largest, top / total);
      if (!wanted) continue;
      if (total != 0.0)
        for (int64_t j = 0; j < span.used; ++j) weights[j] /= total;
      taps.first[i - begin] = static_cast<int32_t>(span.first);
      taps.used[i - begin] = static_cast<int32_t>(span.used);
    }
    taps.precision = 0;
    while (taps.precision < kMostPrecision &&
           static_cast<int64_t>(0.5 + largest * static_cast<double>(int64_t{1} << (taps.precision + 1))) <
               (1 << 15))
      ++taps.precision;
    taps.stride = static_cast<int32_t>((most + 3) / 4 * 4);
    taps.weights.assign(static_cast<size_t>(taps.stride) * count, 0);
    const double unit = static_cast<double>(int64_t{1} << taps.precision);
    for (int64_t k = 0; k < count; ++k)
      for (int64_t j = 0; j < most; ++j)
        taps.weights[static_cast<size_t>(k) * taps.stride + j] =
            static_cast<int16_t>(scratch[static_cast<size_t>(k * most + j)] * unit + 0.5);
  }
  taps.low = INT32_MAX;
  taps.high = 0;
  for (int64_t k = 0; k < count; ++k) {
    taps.low = std::min(taps.low, taps.first[k]);
    taps.high = std::max(taps.high, taps.first[k] + taps.used[k]);
  }
}

// The same taps in the opposite order: the result mirrored.
inline void mirror(Taps& taps) {
  const int32_t count = taps.size();
  for (int32_t i = 0; i < count / 2; ++i) {
    const int32_t k = count - 1 - i;
    std::swap(taps.first[i], taps.first[k]);
    std::swap(taps.used[i], taps.used[k]);
    std::swap_ranges(taps.weights.begin() + static_cast<ptrdiff_t>(i) * taps.stride,
                     taps.weights.begin() + static_cast<ptrdiff_t>(i + 1) * taps.stride,
                     taps.weights.begin() + static_cast<ptrdiff_t>(k) * taps.stride);
  }
}

}  // namespace sfn
