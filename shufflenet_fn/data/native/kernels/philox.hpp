// Philox4x64-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
// (SC 2011), laid out and turned into numbers in [0, 1) as randomness.py and numpy do.
#pragma once

#include <cstdint>

namespace sfn {

namespace detail {

struct Wide {
  uint64_t high, low;
};

inline Wide multiplied(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return {static_cast<uint64_t>(product >> 64), static_cast<uint64_t>(product)};
}

inline void philox_block(const uint64_t counter[4], const uint64_t key[2], uint64_t block[4]) {
  uint64_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
  uint64_t k[2] = {key[0], key[1]};
  for (int round = 0; round < 10; ++round) {
    if (round > 0) {
      k[0] += 0x9E3779B97F4A7C15u;
      k[1] += 0xBB67AE8584CAA73Bu;
    }
    const Wide first = multiplied(0xD2E7470EE14C6C93u, c[0]), second = multiplied(0xCA5A826395121157u, c[2]);
    const uint64_t next[4] = {second.high ^ c[1] ^ k[0], second.low, first.high ^ c[3] ^ k[1], first.low};
    for (int word = 0; word < 4; ++word) c[word] = next[word];
  }
  for (int word = 0; word < 4; ++word) block[word] = c[word];
}

}  // namespace detail

// `count` uniform numbers of sample `index`, from the domain SAMPLE (0).
inline void sample_draws(uint64_t seed, uint64_t epoch, uint64_t index, uint64_t repeat, int64_t count,
                         double* draws) {
  const uint64_t key[2] = {seed, repeat};
  uint64_t counter[4] = {0, index, epoch, 0}, block[4];
  for (int64_t i = 0; i < count; ++i) {
    if (i % 4 == 0) {
      ++counter[0];
      detail::philox_block(counter, key, block);
    }
    draws[i] = static_cast<double>(block[i % 4] >> 11) * 0x1p-53;
  }
}

}  // namespace sfn
