// 3x3 convolution with stride 2 and padding 1 over few channels: patches of a block of pixels, then
// a product.
#pragma once
#include <memory>

#include "gemm.hpp"
#include "parts.hpp"
#include "pointwise.hpp"
#include "scratch.hpp"

namespace sfn {

template <class T>
struct Stem {
  const T* x;  // NHWC, dense
  int64_t images, height, width, in, out;
  const float* weight;  // [out][in][3][3]
  int64_t threads;

  int64_t out_height() const { return (height - 1) / 2 + 1; }
  int64_t out_width() const { return (width - 1) / 2 + 1; }
  int64_t rows() const { return images * out_height() * out_width(); }
  int64_t depth() const { return 9 * in; }

  // Patches in the order (kh, kw, channel); pixels outside are zero.
  void load_patches(int64_t first, int64_t count, float* to, int64_t ld) const {
    int64_t ow = out_width(), oh = out_height();
    const T* end = x + images * height * width * in;
    for (int64_t r = 0; r < count; ++r, to += ld) {
      int64_t row = first + r, w = row % ow, h = row / ow % oh, image = row / ow / oh;
      for (int64_t kh = 0; kh < 3; ++kh) {
        int64_t y = 2 * h + kh - 1;
        float* line = to + kh * 3 * in;
        if (y < 0 || y >= height) {
          for (int64_t i = 0; i < 3 * in; ++i) line[i] = 0;
          continue;
        }
        const T* source = x + ((image * height + y) * width + 2 * w - 1) * in;
        int64_t from = w == 0 ? in : 0, until = 2 * w + 1 < width ? 3 * in : 2 * in;
        // Whole vectors write over what follows, which is written next; so not at the end of
        // anything.
        if (from == 0 && until == 3 * in && 3 * in <= VL && r + 1 < count && source + VL <= end) {
          store(line, load(source));
          continue;
        }
        for (int64_t i = 0; i < from; ++i) line[i] = 0;
        for (int64_t i = from; i < until; ++i) line[i] = scalar(source[i]);
        for (int64_t i = until; i < 3 * in; ++i) line[i] = 0;
      }
    }
  }

  static float scalar(float v) { return v; }
  static float scalar(bf16 v) {
    uint32_t bits = uint32_t(v.bits) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  }
  // Position in the weight [out][in][3][3] of patch element (kh, kw, c).
  int64_t weight_at(int64_t n, int64_t k) const { return (n * in + k % in) * 9 + k / in; }
};

template <class T>
void stem_forward(const Stem<T>& op, const Output<T>& out, float* mean, float* var) {
  int64_t ld_in = pad(op.depth()), ld_out = pad(op.out);
  static thread_local Scratch weights;
  float* right = weights.floats(op.depth() * ld_out);
  for (int64_t k = 0; k < op.depth(); ++k)
    for (int64_t n = 0; n < ld_out; ++n)
      right[k * ld_out + n] = n < op.out ? op.weight[op.weight_at(n, k)] : 0.0f;
  bool wanted = mean != nullptr;
  std::vector<std::unique_ptr<Moments>> moments(op.threads);
  for_shares(op.threads, [&](int64_t t) {
    static thread_local Scratch scratch;
    if (wanted) moments[t] = std::make_unique<Moments>(op.out);
    Share mine = share(op.rows(), t, op.threads);
    int64_t step = block_rows(op.rows(), ld_in + ld_out, op.threads);
    float* a = scratch.floats(step * (ld_in + ld_out));
    float* c = a + step * ld_in;
    for (int64_t first = mine.begin; first < mine.end; first += step) {
      int64_t rows = least(step, mine.end - first);
      op.load_patches(first, rows, a, ld_in);
      Ahead ahead(rows);
      ahead.write(out.z + first * out.channels, out.channels, out.channels);
      gemm(rows, ld_out, op.depth(), a, ld_in, 1, right, ld_out, c, ld_out, false, &ahead);
      store_rows(out, first, rows, c, ld_out, moments[t].get());
    }
  });
  if (!wanted) return;
  for (int64_t t = 1; t < op.threads; ++t) moments[0]->add(*moments[t]);
  moments[0]->write(mean, var);
}

// dweight [out][in][3][3]; images take no gradient here.
template <class T>
void stem_backward(const Stem<T>& op, const OutputGradient<T>& gradient, float* dweight) {
  int64_t ld_in = pad(op.depth()), ld_out = pad(op.out);
  std::vector<std::vector<float>> partial(op.threads);
  for_shares(op.threads, [&](int64_t t) {
    static thread_local Scratch scratch;
    partial[t].assign(op.out * ld_in, 0.0f);
    Share mine = share(op.rows(), t, op.threads);
    int64_t step = block_rows(op.rows(), ld_in + ld_out, op.threads);
    float* a = scratch.floats(step * (ld_in + ld_out));
    Block<float, true, true> g(a + step * ld_in, step, ld_out);
    for (int64_t first = mine.begin; first < mine.end; first += step) {
      int64_t rows = least(step, mine.end - first);
      op.load_patches(first, rows, a, ld_in);
      gradient.load_rows(first, rows, g);
      Ahead ahead(least(step, mine.end - first - rows));
      gradient.fetch(first + rows, ahead);
      gemm(op.out, ld_in, rows, g.down, 1, ld_out, a, ld_in, partial[t].data(), ld_in, true, &ahead);
    }
  });
  for (int64_t n = 0; n < op.out; ++n)
    for (int64_t k = 0; k < op.depth(); ++k) {
      float total = 0;
      for (int64_t t = 0; t < op.threads; ++t) total += partial[t][n * ld_in + k];
      dweight[op.weight_at(n, k)] = total;
    }
}

}  // namespace sfn
