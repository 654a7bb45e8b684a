// Samples as they are stored: whole files, or parts of shards.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "resample.hpp"

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

// CRC-32 as zlib's crc32(): polynomial 0x04C11DB7, reflected. Goes on from `crc`, the CRC of what comes before; 0 at the start.
inline uint32_t crc32(uint32_t crc, const uint8_t* data, size_t size) {
  uint32_t state = detail::crc_wide(~crc, data, size);
  return ~detail::crc_bytes(state, data, size);
}

// As `STORED` of `data/dataset.py` lays it out.
struct Stored {
  const char* path;     // of a file that is a sample, or null
  int64_t offset;       // of the sample in the shard `descriptor`
  int64_t size;         // of the sample in bytes
  int32_t descriptor;
  uint32_t height, width;  // of pixels; 0 of an encoded image
  uint32_t seed, checksum;  // the sample's CRC-32, continued from `seed`
  uint32_t unused;
};

namespace detail {

constexpr int64_t kLargestFile = int64_t{1} << 30;

inline bool read_fully(int descriptor, uint8_t* to, int64_t size, int64_t offset) {
  while (size > 0) {
    const ssize_t got = pread(descriptor, to, static_cast<size_t>(size), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    size -= got;
    offset += got;
  }
  return true;
}

// An open file, closed also where memory runs out.
class File {
 public:
  // Non-blocking: to open a named pipe would wait for its writer.
  explicit File(const char* path) : descriptor(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor >= 0) close(descriptor);
  }

  const int descriptor;
};

}  // namespace detail

// The content of a regular file. False if it cannot be had.
inline bool read_file(const char* path, std::vector<uint8_t>& memory, int64_t& size) {
  const detail::File file(path);
  struct stat status;
  if (file.descriptor < 0 || fstat(file.descriptor, &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_size > detail::kLargestFile)
    return false;
  size = status.st_size;
  make_room(memory, size);
  return detail::read_fully(file.descriptor, memory.data(), size, 0);
}

// Part of a shard, checked. `memory` may grow to what its file holds.
inline bool read_record(const Stored& stored, std::vector<uint8_t>& memory) {
  if (stored.size < 0 || stored.size > detail::kLargestFile || stored.offset < 0) return false;
  struct stat status;
  if (fstat(stored.descriptor, &status) != 0 || status.st_size - stored.size < stored.offset) return false;
  make_room(memory, stored.size);
  uint8_t* data = memory.data();
  if (!detail::read_fully(stored.descriptor, data, stored.size, stored.offset)) return false;
  return crc32(stored.seed, data, static_cast<size_t>(stored.size)) == stored.checksum;
}

}  // namespace sfn
