// What is done with a sample: its random numbers, which part of the image is looked at, and how large that is
// resized.
//
// Philox4x64-10 is the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
// (SC 2011), laid out and turned into numbers in [0, 1) as randomness.py and numpy do. The boxes follow
// geometry.py, in the same double arithmetic, so that both choose the same.
#pragma once

#include <algorithm>
#include <cmath>
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

struct Box {
  int64_t top, left, height, width;
};

// Half to even, as Python's round().
inline int64_t round_even(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

struct CropRule {
  double scale_low, scale_high, ratio_low, ratio_high, log_low, log_high;
};

constexpr int kCropTries = 10;
constexpr int kCropDraws = 2 * kCropTries + 2;

// torchvision's RandomResizedCrop. `draws`: kCropDraws uniform numbers.
inline Box random_resized_crop(int64_t height, int64_t width, const CropRule& rule, const double* draws) {
  for (int attempt = 0; attempt < kCropTries; ++attempt) {
    const double share = draws[2 * attempt], aspect_draw = draws[2 * attempt + 1];
    const double area = static_cast<double>(height * width) *
                        (rule.scale_low + share * (rule.scale_high - rule.scale_low));
    const double aspect = std::exp(rule.log_low + aspect_draw * (rule.log_high - rule.log_low));
    const int64_t crop_width = round_even(std::sqrt(area * aspect));
    const int64_t crop_height = round_even(std::sqrt(area / aspect));
    if (0 < crop_width && crop_width <= width && 0 < crop_height && crop_height <= height) {
      const double* place = draws + 2 * kCropTries;
      return {static_cast<int64_t>(place[0] * static_cast<double>(height - crop_height + 1)),
              static_cast<int64_t>(place[1] * static_cast<double>(width - crop_width + 1)), crop_height,
              crop_width};
    }
  }
  const double aspect = static_cast<double>(width) / static_cast<double>(height);
  int64_t crop_height = height, crop_width = width;
  if (aspect < rule.ratio_low) {
    crop_height = std::max<int64_t>(1, round_even(static_cast<double>(width) / rule.ratio_low));
  } else if (aspect > rule.ratio_high) {
    crop_width = std::max<int64_t>(1, round_even(static_cast<double>(height) * rule.ratio_high));
  }
  return {(height - crop_height) / 2, (width - crop_width) / 2, crop_height, crop_width};
}

// A resize: `box` of the image to (height, width), of which only `window` is wanted.
struct Resize {
  Box box;
  int64_t height, width;
  Box window;
  bool mirrored;
};

inline Resize train_resize(int64_t height, int64_t width, int64_t size, const CropRule& rule,
                           const double* draws, bool mirrored) {
  return {random_resized_crop(height, width, rule, draws), size, size, {0, 0, size, size}, mirrored};
}

constexpr int64_t kLongest = 50;

// Short side to `resize`, then the central square of `size`.
inline Resize eval_resize(int64_t height, int64_t width, int64_t resize, int64_t size) {
  const int64_t part_height = std::min(height, kLongest * width);
  const int64_t part_width = std::min(width, kLongest * height);
  const Box box{(height - part_height) / 2, (width - part_width) / 2, part_height, part_width};
  int64_t to_height = resize, to_width = resize;
  if (part_height <= part_width) {
    to_width = static_cast<int64_t>(static_cast<double>(resize * part_width) /
                                    static_cast<double>(part_height));
  } else {
    to_height = static_cast<int64_t>(static_cast<double>(resize * part_height) /
                                     static_cast<double>(part_width));
  }
  const Box window{round_even(static_cast<double>(to_height - size) / 2),
                   round_even(static_cast<double>(to_width - size) / 2), size, size};
  return {box, to_height, to_width, window, false};
}

}  // namespace sfn
