// Resampling of interleaved RGB rows: first along the rows, then across them, rounding to a byte after each.
//
// The antialiased bilinear filter along one axis, as integers: which source pixels make a pixel of the result,
// and with what weights. A triangle whose half-width is one pixel of the result where the image shrinks and one
// source pixel where it grows; weights are normalised, then rounded to multiples of 2^-precision with the largest
// precision at which all of them fit 16 bits. That is what Pillow and torch compute for uint8, and as all sums are
// of integers, the result is the same to the bit however they are added. A sum is below 2^31: weights of a pixel
// add up to about 2^precision <= 2^22 and pixels are bytes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

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

// Bytes after the last pixel of a row that may be read, and after that of a result that may be written.
constexpr int64_t kSlack = 64;

// Makes room for `bytes` and the slack.
inline void make_room(std::vector<uint8_t>& memory, int64_t bytes) {
  if (static_cast<int64_t>(memory.size()) < bytes + kSlack) memory.resize(static_cast<size_t>(bytes + kSlack));
}

namespace detail {

inline uint8_t clipped(int32_t sum, int32_t precision) {
  const int32_t value = sum >> precision;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

inline void along_row(const uint8_t* source, const Taps& taps, uint8_t* result) {
  const int32_t half = 1 << (taps.precision - 1);
  for (int32_t i = 0; i < taps.size(); ++i) {
    const int16_t* weights = taps.weights_of(i);
    const uint8_t* pixel = source + static_cast<int64_t>(taps.first[i]) * 3;
    int32_t red = half, green = half, blue = half;
    for (int32_t j = 0; j < taps.used[i]; ++j, pixel += 3) {
      red += pixel[0] * weights[j];
      green += pixel[1] * weights[j];
      blue += pixel[2] * weights[j];
    }
    result[3 * i] = clipped(red, taps.precision);
    result[3 * i + 1] = clipped(green, taps.precision);
    result[3 * i + 2] = clipped(blue, taps.precision);
  }
}

#if defined(__AVX2__)

inline __m256i both(const uint8_t* upper, const uint8_t* lower) {
  return _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(upper))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(lower)), 1);
}

// Four rows at once: two in each register. In a lane, the bytes of pixels 0 and 1 (then 2 and 3) become pairs
// of 16-bit numbers for each colour, which one instruction multiplies with a pair of weights and adds.
inline void along_four_rows(const uint8_t* const source[4], const Taps& taps, uint8_t* const result[4]) {
  const __m256i first_pair = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i second_pair = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  const __m256i half = _mm256_set1_epi32(1 << (taps.precision - 1));
  const __m128i shift = _mm_cvtsi32_si128(taps.precision);
  for (int32_t i = 0; i < taps.size(); ++i) {
    const int16_t* weights = taps.weights_of(i);
    const int64_t at = static_cast<int64_t>(taps.first[i]) * 3;
    __m256i upper = half, lower = half;
    for (int32_t j = 0; j < taps.used[i]; j += 4) {
      int32_t pairs[2];
      std::memcpy(pairs, weights + j, sizeof pairs);
      const __m256i one = _mm256_set1_epi32(pairs[0]), two = _mm256_set1_epi32(pairs[1]);
      const __m256i a = both(source[0] + at + 3 * j, source[1] + at + 3 * j);
      const __m256i b = both(source[2] + at + 3 * j, source[3] + at + 3 * j);
      upper = _mm256_add_epi32(upper, _mm256_madd_epi16(_mm256_shuffle_epi8(a, first_pair), one));
      lower = _mm256_add_epi32(lower, _mm256_madd_epi16(_mm256_shuffle_epi8(b, first_pair), one));
      upper = _mm256_add_epi32(upper, _mm256_madd_epi16(_mm256_shuffle_epi8(a, second_pair), two));
      lower = _mm256_add_epi32(lower, _mm256_madd_epi16(_mm256_shuffle_epi8(b, second_pair), two));
    }
    // Bytes 0-3 of each lane are the pixel of its upper row, bytes 4-7 that of its lower.
    const __m256i packed = _mm256_packs_epi32(_mm256_sra_epi32(upper, shift), _mm256_sra_epi32(lower, shift));
    const __m256i bytes = _mm256_packus_epi16(packed, packed);
    const int32_t pixels[4] = {_mm256_extract_epi32(bytes, 0), _mm256_extract_epi32(bytes, 4),
                               _mm256_extract_epi32(bytes, 1), _mm256_extract_epi32(bytes, 5)};
    for (int row = 0; row < 4; ++row) std::memcpy(result[row] + 3 * i, &pixels[row], 4);
  }
}

#endif

inline void across(const uint8_t* first, int64_t stride, const int16_t* weights, int32_t used,
                   int32_t precision, int64_t bytes, uint8_t* result) {
  int64_t x = 0;
#if defined(__AVX2__)
  const __m256i half = _mm256_set1_epi32(1 << (precision - 1));
  const __m128i shift = _mm_cvtsi32_si128(precision);
  for (; x + 32 <= bytes; x += 32) {
    __m256i sums[4] = {half, half, half, half};
    for (int32_t j = 0; j < used; j += 2) {
      int32_t pair;
      std::memcpy(&pair, weights + j, sizeof pair);
      const __m256i weight = _mm256_set1_epi32(pair);
      const uint8_t* row = first + j * stride + x;
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
      // A row after the last has the weight 0, but may lie outside.
      const __m256i b = j + 1 < used ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + stride))
                                     : _mm256_setzero_si256();
      const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
      const __m256i zero = _mm256_setzero_si256();
      sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weight));
      sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weight));
      sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weight));
      sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weight));
    }
    for (auto& sum : sums) sum = _mm256_sra_epi32(sum, shift);
    // Packing works within lanes, as unpacking did, so the bytes come back in order.
    const __m256i value =
        _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(result + x), value);
  }
#endif
  constexpr int64_t kBlock = 64;
  for (int64_t count; x < bytes; x += count) {
    count = std::min(kBlock, bytes - x);
    int32_t sums[kBlock];
    for (int64_t k = 0; k < count; ++k) sums[k] = 1 << (precision - 1);
    for (int32_t j = 0; j < used; ++j) {
      const uint8_t* row = first + j * stride + x;
      for (int64_t k = 0; k < count; ++k)
        sums[k] += static_cast<int32_t>(static_cast<int16_t>(row[k])) * static_cast<int32_t>(weights[j]);
    }
    for (int64_t k = 0; k < count; ++k) result[x + k] = clipped(sums[k], precision);
  }
}

}  // namespace detail

// `count` rows of pixels, `source_stride` bytes apart, to as many of `taps.size()` pixels. kSlack bytes may be
// read after each row and written after each result, so results are made from the first to the last.
inline void resample_along(const uint8_t* source, int64_t source_stride, int64_t count, const Taps& taps,
                           uint8_t* result, int64_t result_stride) {
  int64_t y = 0;
#if defined(__AVX2__)
  for (; y + 4 <= count; y += 4) {
    const uint8_t* from = source + y * source_stride;
    uint8_t* to = result + y * result_stride;
    const uint8_t* const rows[4] = {from, from + source_stride, from + 2 * source_stride,
                                    from + 3 * source_stride};
    uint8_t* const results[4] = {to, to + result_stride, to + 2 * result_stride, to + 3 * result_stride};
    detail::along_four_rows(rows, taps, results);
  }
#endif
  for (; y < count; ++y) detail::along_row(source + y * source_stride, taps, result + y * result_stride);
}

// Rows taps.low .. taps.high - 1, of which `rows` is the first, to taps.size() rows of `bytes` each.
inline void resample_across(const uint8_t* rows, int64_t stride, const Taps& taps, int64_t bytes,
                            uint8_t* result) {
  for (int32_t i = 0; i < taps.size(); ++i)
    detail::across(rows + (taps.first[i] - taps.low) * stride, stride, taps.weights_of(i), taps.used[i],
                   taps.precision, bytes, result + i * bytes);
}

}  // namespace sfn
