// Colour jitter of interleaved RGB pixels, in place: the arithmetic of transforms.py, which is OpenCV's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__FMA__)
#define SFN_EIGHTS
#include <immintrin.h>
#endif

namespace sfn {

namespace detail {

inline int32_t grey_of(const uint8_t* p) { return (p[0] * 9798 + p[1] * 19235 + p[2] * 3735 + 16384) >> 15; }

inline uint8_t blended(float level, float factor, float rest) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  const float value = std::nearbyint(__builtin_fmaf(level, factor, rest));
#else
  const float value = std::nearbyint(level * factor + rest);
#endif
  return static_cast<uint8_t>(static_cast<int32_t>(value < 0 ? 0 : value > 255 ? 255 : value));
}

#if defined(SFN_EIGHTS)

// Eight pixels, four in a lane, and four bytes more.
inline __m256i eight(const uint8_t* pixels) {
  return _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + 12)), 1);
}

inline __m256i shuffled(__m256i eight, __m128i order) {
  return _mm256_shuffle_epi8(eight, _mm256_broadcastsi128_si256(order));
}

inline __m256i grey_of(__m256i eight) {
  const __m256i red_green =
      shuffled(eight, _mm_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1));
  const __m256i blue =
      shuffled(eight, _mm_setr_epi8(2, -1, -1, -1, 5, -1, -1, -1, 8, -1, -1, -1, 11, -1, -1, -1));
  const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(red_green, _mm256_set1_epi32(19235 << 16 | 9798)),
                                       _mm256_madd_epi16(blue, _mm256_set1_epi32(3735)));
  return _mm256_srli_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(16384)), 15);
}

// Rounded; packing then clips.
inline __m256i blended(__m256i levels, __m256 factor, __m256 rest) {
  return _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_cvtepi32_ps(levels), factor, rest));
}

#endif

inline void blend(uint8_t* p, int64_t bytes, float factor, float rest) {
  int64_t i = 0;
#if defined(SFN_EIGHTS)
  const __m256 by = _mm256_set1_ps(factor), more = _mm256_set1_ps(rest);
  for (; i + 32 <= bytes; i += 32) {
    __m256i parts[4];
    for (int k = 0; k < 4; ++k) {
      const __m128i eight_bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + i + 8 * k));
      parts[k] = blended(_mm256_cvtepu8_epi32(eight_bytes), by, more);
    }
    const __m256i packed =
        _mm256_packus_epi16(_mm256_packs_epi32(parts[0], parts[1]), _mm256_packs_epi32(parts[2], parts[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + i),
                        _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }
#endif
  for (; i < bytes; ++i) p[i] = blended(p[i], factor, rest);
}

inline int64_t grey_sum(const uint8_t* p, int64_t count) {
  int64_t k = 0, sum = 0;
#if defined(SFN_EIGHTS)
  __m256i total = _mm256_setzero_si256();
  for (; k + 10 <= count; k += 8) total = _mm256_add_epi32(total, grey_of(eight(p + 3 * k)));
  uint32_t sums[8];
  std::memcpy(sums, &total, sizeof sums);
  for (const uint32_t part : sums) sum += part;
#endif
  for (; k < count; ++k) sum += grey_of(p + 3 * k);
  return sum;
}

inline void blend_with_grey(uint8_t* p, int64_t count, float factor, float other) {
  int64_t k = 0;
#if defined(SFN_EIGHTS)
  const __m256 by = _mm256_set1_ps(factor);
  for (; k + 10 <= count; k += 8) {
    uint8_t* at = p + 3 * k;
    const __m256i pixels = eight(at);
    const __m256 rest = _mm256_mul_ps(_mm256_cvtepi32_ps(grey_of(pixels)), _mm256_set1_ps(other));
    __m256i colours[3];
    for (int c = 0; c < 3; ++c) {
      const __m128i reds = _mm_setr_epi8(0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1);
      colours[c] = blended(shuffled(pixels, _mm_add_epi8(reds, _mm_set1_epi32(c))), by, rest);
    }
    const __m256i packed = _mm256_packus_epi16(_mm256_packs_epi32(colours[0], colours[1]),
                                               _mm256_packs_epi32(colours[2], colours[2]));
    const __m256i ordered =
        shuffled(packed, _mm_setr_epi8(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, -1, -1, -1, -1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm256_castsi256_si128(ordered));
    const __m128i upper = _mm256_extracti128_si256(ordered, 1);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(at + 12), upper);
    const int32_t last = _mm_extract_epi32(upper, 2);
    std::memcpy(at + 20, &last, 4);
  }
#endif
  for (; k < count; ++k) {
    uint8_t* at = p + 3 * k;
    const float rest = static_cast<float>(grey_of(at)) * other;
    for (int c = 0; c < 3; ++c) at[c] = blended(at[c], factor, rest);
  }
}

}  // namespace detail

// `draws`: the order, then the factors of brightness, contrast and saturation.
inline void color_jitter(uint8_t* pixels, int64_t count, double strength, const double* draws) {
  static constexpr char kOrders[6][4] = {"bcs", "bsc", "cbs", "csb", "sbc", "scb"};
  const double low = std::max(0.0, 1.0 - strength);
  for (const char* name = kOrders[static_cast<int>(draws[0] * 6)]; *name; ++name) {
    const double factor = low + draws[*name == 'b' ? 1 : *name == 'c' ? 2 : 3] * (1.0 + strength - low);
    const auto by = static_cast<float>(factor);
    if (*name == 's') {
      detail::blend_with_grey(pixels, count, by, static_cast<float>(1.0 - factor));
    } else if (*name == 'b') {
      detail::blend(pixels, count * 3, by, 0.0f);
    } else {
      const auto sum = static_cast<double>(detail::grey_sum(pixels, count));
      // Multiplied, as in cv::mean: a division could give another last bit.
      const double mean = std::floor(sum * (1.0 / static_cast<double>(count)) + 0.5);
      detail::blend(pixels, count * 3, by, static_cast<float>((1.0 - factor) * mean));
    }
  }
}

}  // namespace sfn
