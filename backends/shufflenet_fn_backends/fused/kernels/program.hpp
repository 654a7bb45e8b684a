// A recorded forward pass: all layers for one image, then for the next, so that the output of a
// layer is still in the cache when the next layer reads it. Each thread takes images; all threads
// share a single image.
#pragma once
#include "depthwise.hpp"
#include "pointwise.hpp"
#include "pool.hpp"
#include "stem.hpp"

namespace sfn {

enum class Kind : int64_t { stem, pool, pointwise, depthwise, mean };

struct Range {
  int64_t offset, stride, channels;  // elements from the start of the arena
};

struct Step {
  Kind kind;
  bool relu;
  const float *weight, *bias;
  int64_t in, out, height, width, stride, result, mask;
  std::vector<Range> ranges;
};

// Fields of a step: kind, relu, weight, bias, in, out, height, width, stride, result, mask, number
// of ranges, and three for each range. `mask` is where a pool may write what it does not need
// later.
inline std::vector<Step> read_steps(const int64_t* f, int64_t count) {
  std::vector<Step> steps;
  for (int64_t i = 0; i < count; ++i) {
    Step step{Kind(f[0]),
              f[1] != 0,
              (const float*)f[2],
              (const float*)f[3],
              f[4],
              f[5],
              f[6],
              f[7],
              f[8],
              f[9],
              f[10],
              {}};
    int64_t ranges = f[11];
    f += 12;
    for (int64_t r = 0; r < ranges; ++r, f += 3) step.ranges.push_back({f[0], f[1], f[2]});
    steps.push_back(std::move(step));
  }
  return steps;
}

template <class T>
inline T narrowed(float v) {
  T buffer[VL];
  store(buffer, splat(v));
  return buffer[0];
}

template <class T>
void run_step(const Step& s, const T* image, T* arena, T* features, int64_t threads) {
  std::vector<Part<T>> parts;
  for (const Range& r : s.ranges)
    parts.push_back({arena + r.offset, r.stride, r.channels, nullptr, nullptr, nullptr, false,
                     nullptr, 0, nullptr, nullptr, nullptr});
  Output<T> out{arena + s.result, s.out, s.bias, s.relu};
  switch (s.kind) {
    case Kind::stem:
      stem_forward(Stem<T>{image, 1, s.height, s.width, s.in, s.out, s.weight, threads}, out,
                   nullptr, nullptr);
      break;
    case Kind::pool:
      pool_forward(Pool<T>{parts[0], 1, s.height, s.width, threads}, out.z,
                   reinterpret_cast<uint8_t*>(arena + s.mask));
      break;
    case Kind::pointwise: {
      int64_t rows = s.height * s.width;
      Pointwise<T> op{std::move(parts), rows, s.in, s.out, nullptr, nullptr, least(threads, rows)};
      pointwise_forward(op, out, s.weight, nullptr, nullptr);
      break;
    }
    case Kind::depthwise: {
      Depthwise<T> op{std::move(parts), s.in, 1, s.height, s.width, s.stride, s.weight, threads};
      depthwise_forward(op, out, nullptr, nullptr);
      break;
    }
    case Kind::mean:
      for (int64_t c = 0; c < s.in; ++c) {
        float total = 0;
        const T* z = parts[0].z + c;
        for (int64_t p = 0; p < s.height * s.width; ++p) total += Stem<T>::scalar(z[p * s.in]);
        features[c] = narrowed<T>(total / float(s.height * s.width));
      }
  }
}

template <class T>
void run_program(const std::vector<Step>& steps, const T* x, int64_t images, int64_t image_size,
                 T* features, int64_t feature_size, T* arenas, int64_t arena_size,
                 int64_t threads) {
  auto run = [&](int64_t image, T* arena, int64_t inner) {
    for (const Step& step : steps)
      run_step(step, x + image * image_size, arena, features + image * feature_size, inner);
  };
  if (images < threads) {
    for (int64_t i = 0; i < images; ++i) run(i, arenas, threads);
    return;
  }
  for_shares(threads, [&](int64_t t) {
    Share mine = share(images, t, threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) run(i, arenas + t * arena_size, 1);
  });
}

}  // namespace sfn
