// Colour jitter of interleaved RGB pixels, in place: the arithmetic of transforms.py, which is OpenCV's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace sfn {

namespace detail {

// A level times `factor`, plus `rest` or, with `grey`, `rest` times the grey level of the pixel.
struct Blend {
  float factor, rest;
  bool grey;
};

inline int32_t grey_of(const uint8_t* p) { return (p[0] * 9798 + p[1] * 19235 + p[2] * 3735 + 16384) >> 15; }

inline uint8_t blended(float level, float factor, float rest) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  const float value = std::nearbyint(__builtin_fmaf(level, factor, rest));
#else
  const float value = std::nearbyint(level * factor + rest);
#endif
  return static_cast<uint8_t>(static_cast<int32_t>(value < 0 ? 0 : value > 255 ? 255 : value));
}

#if defined(__AVX2__) && defined(__FMA__)

// A group of kGroups times eight pixels at once, each colour of eight in a register. Returns how many pixels
// are done, from the first on, and adds their grey levels to `sum`.
template <bool SUM>
inline int64_t blend_groups(uint8_t* pixels, int64_t count, const Blend* blends, int number, int64_t& sum) {
  constexpr int kGroups = 2;
  // In a lane lie four pixels: their bytes, one colour after the other.
  const __m256i apart = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1));
  const __m256i together = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, -1, -1, -1, -1));
  __m256i total = _mm256_setzero_si256();
  const Blend* const end = blends + number;
  int64_t k = 0;
  // Four bytes after the last pixel are read.
  for (; k + 8 * kGroups + 2 <= count; k += 8 * kGroups) {
    __m256 colours[kGroups][3];
    for (int g = 0; g < kGroups; ++g) {
      const uint8_t* from = pixels + 3 * (k + 8 * g);
      const __m256i both = _mm256_inserti128_si256(
          _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 12)), 1);
      for (int c = 0; c < 3; ++c)
        colours[g][c] = _mm256_cvtepi32_ps(
            _mm256_shuffle_epi8(both, _mm256_add_epi8(apart, _mm256_set1_epi32(c))));
    }
    const auto grey = [](const __m256* colour) {  // exact: all sums are below 2^24
      __m256 sum = _mm256_fmadd_ps(colour[0], _mm256_set1_ps(9798), _mm256_set1_ps(16384));
      sum = _mm256_fmadd_ps(colour[1], _mm256_set1_ps(19235), sum);
      sum = _mm256_fmadd_ps(colour[2], _mm256_set1_ps(3735), sum);
      return _mm256_srli_epi32(_mm256_cvttps_epi32(sum), 15);
    };
    for (const Blend* blend = blends; blend < end; ++blend) {
      const __m256 factor = _mm256_set1_ps(blend->factor);
      for (auto& colour : colours) {
        __m256 rest = _mm256_set1_ps(blend->rest);
        if (blend->grey) rest = _mm256_mul_ps(rest, _mm256_cvtepi32_ps(grey(colour)));
        for (auto& value : colour) value = _mm256_fmadd_ps(value, factor, rest);
      }
      if (!SUM && blend + 1 == end) break;  // packing rounds and clips
      for (auto& colour : colours)
        for (auto& value : colour)
          value = _mm256_round_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      if (blend->factor > 1)
        for (auto& colour : colours)
          for (auto& value : colour)
            value = _mm256_min_ps(_mm256_max_ps(value, _mm256_setzero_ps()), _mm256_set1_ps(255));
    }
    for (int g = 0; g < kGroups; ++g) {
      const auto& colour = colours[g];
      if (SUM) total = _mm256_add_epi32(total, grey(colour));
      if (number == 0) continue;
      const __m256i blue = _mm256_cvtps_epi32(colour[2]);
      const __m256i first = _mm256_packs_epi32(_mm256_cvtps_epi32(colour[0]), _mm256_cvtps_epi32(colour[1]));
      const __m256i bytes =
          _mm256_shuffle_epi8(_mm256_packus_epi16(first, _mm256_packs_epi32(blue, blue)), together);
      uint8_t* to = pixels + 3 * (k + 8 * g);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(bytes));
      const __m128i upper = _mm256_extracti128_si256(bytes, 1);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 12), upper);
      const int32_t last = _mm_extract_epi32(upper, 2);
      std::memcpy(to + 20, &last, 4);
    }
  }
  uint32_t sums[8];
  std::memcpy(sums, &total, sizeof sums);
  for (const uint32_t part : sums) sum += part;
  return k;
}

#endif

// Applies `number` blends, and returns the sum of the grey levels after them.
template <bool SUM>
inline int64_t blend_all(uint8_t* pixels, int64_t count, const Blend* blends, int number) {
  int64_t sum = 0, done = 0;
#if defined(__AVX2__) && defined(__FMA__)
  done = blend_groups<SUM>(pixels, count, blends, number, sum);
#endif
  pixels += 3 * done;
  count -= done;
  for (const Blend* blend = blends; blend < blends + number; ++blend)
    for (int64_t k = 0; k < count; ++k) {
      uint8_t* p = pixels + 3 * k;
      const float rest = blend->grey ? blend->rest * static_cast<float>(grey_of(p)) : blend->rest;
      const float red = p[0], green = p[1], blue = p[2];
      p[0] = blended(red, blend->factor, rest);
      p[1] = blended(green, blend->factor, rest);
      p[2] = blended(blue, blend->factor, rest);
    }
  for (int64_t k = 0; SUM && k < count; ++k) sum += grey_of(pixels + 3 * k);
  return sum;
}

}  // namespace detail

// `draws`: the order, then the factors of brightness, contrast and saturation.
inline void color_jitter(uint8_t* pixels, int64_t count, double strength, const double* draws) {
  static constexpr char kOrders[6][4] = {"bcs", "bsc", "cbs", "csb", "sbc", "scb"};
  const char* order = kOrders[static_cast<int>(draws[0] * 6)];
  const double low = std::max(0.0, 1.0 - strength);
  detail::Blend blends[3];
  int contrast = 0;
  double factor[3];
  for (int i = 0; i < 3; ++i) {
    factor[i] = low + draws[order[i] == 'b' ? 1 : order[i] == 'c' ? 2 : 3] * (1.0 + strength - low);
    const bool grey = order[i] == 's';
    blends[i] = {static_cast<float>(factor[i]), grey ? static_cast<float>(1.0 - factor[i]) : 0.0f, grey};
    if (order[i] == 'c') contrast = i;
  }
  const double sum = static_cast<double>(detail::blend_all<true>(pixels, count, blends, contrast));
  const double mean = std::floor(sum * (1.0 / static_cast<double>(count)) + 0.5);  // not divided, as cv::mean
  blends[contrast].rest = static_cast<float>((1.0 - factor[contrast]) * mean);
  detail::blend_all<false>(pixels, count, blends + contrast, 3 - contrast);
}

}  // namespace sfn
