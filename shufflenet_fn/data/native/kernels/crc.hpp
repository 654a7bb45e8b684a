// CRC-32 as zlib's crc32(): polynomial 0x04C11DB7, reflected.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#if defined(__PCLMUL__) && defined(__SSE4_1__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace sfn {

namespace detail {

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xEDB88320u ^ (value >> 1) : value >> 1;
    table[i] = value;
  }
  return table;
}

inline constexpr auto kCrcTable = crc_table();

// `state` is the complement of a CRC.
inline uint32_t crc_bytes(uint32_t state, const uint8_t* data, size_t size) {
  for (size_t i = 0; i < size; ++i) state = kCrcTable[(state ^ data[i]) & 255] ^ (state >> 8);
  return state;
}

#if defined(__PCLMUL__) && defined(__SSE4_1__)

inline __m128i load(const uint8_t* data) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data)); }

inline __m128i fold(__m128i value, __m128i constants, __m128i next) {
  return _mm_xor_si128(next, _mm_xor_si128(_mm_clmulepi64_si128(value, constants, 0x00),
                                           _mm_clmulepi64_si128(value, constants, 0x11)));
}

// Folding by carry-less multiplication: Gopal et al., "Fast CRC Computation for Generic Polynomials Using
// PCLMULQDQ Instruction", Intel 2009; constants are x^n modulo the polynomial, from its section on zlib's.
// What is left after folding are 16 bytes with the same remainder, which the table finishes.
inline uint32_t crc_wide(uint32_t state, const uint8_t*& data, size_t& size) {
  if (size < 128) return state;
  const __m128i by_four = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
  const __m128i by_one = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
  __m128i parts[4];
  for (int k = 0; k < 4; ++k) parts[k] = load(data + 16 * k);
  parts[0] = _mm_xor_si128(parts[0], _mm_cvtsi32_si128(static_cast<int>(state)));
  data += 64;
  size -= 64;
  for (; size >= 64; data += 64, size -= 64)
    for (int k = 0; k < 4; ++k) parts[k] = fold(parts[k], by_four, load(data + 16 * k));
  __m128i one = parts[0];
  for (int k = 1; k < 4; ++k) one = fold(one, by_one, parts[k]);
  for (; size >= 16; data += 16, size -= 16) one = fold(one, by_one, load(data));
  uint8_t left[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(left), one);
  return crc_bytes(0, left, sizeof left);
}

#elif defined(__ARM_FEATURE_CRC32)

inline uint32_t crc_wide(uint32_t state, const uint8_t*& data, size_t& size) {
  for (; size >= 8; data += 8, size -= 8) {
    uint64_t word;
    std::memcpy(&word, data, sizeof word);
    state = __crc32d(state, word);
  }
  return state;
}

#else

inline uint32_t crc_wide(uint32_t state, const uint8_t*&, size_t&) { return state; }

#endif

}  // namespace detail

// Goes on from `crc`, the CRC of what comes before; 0 at the start.
inline uint32_t crc32(uint32_t crc, const uint8_t* data, size_t size) {
  uint32_t state = detail::crc_wide(~crc, data, size);
  return ~detail::crc_bytes(state, data, size);
}

}  // namespace sfn
