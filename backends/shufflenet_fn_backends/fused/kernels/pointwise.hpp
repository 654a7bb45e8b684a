// 1x1 convolution over the parts of a feature map: normalise, multiply, gather moments, one pass
// each way.
#pragma once
#include <memory>

#include "gemm.hpp"
#include "parts.hpp"
#include "scratch.hpp"

namespace sfn {

// Rows of a block: as many as keep `floats_per_row` in half of a 1 MiB second-level cache.
inline int64_t block_rows(int64_t rows, int64_t floats_per_row, int64_t threads) {
  int64_t fitting = most(48, least(384, 72 * 1024 / most(1, floats_per_row))) / 24 * 24;
  int64_t even = (rows + threads - 1) / threads;
  return most(1, least(fitting, even));
}

// perm[k]: the input channel of the weight that meets physical channel k; null for the identity.
inline int64_t permuted(const int64_t* perm, int64_t k) { return perm == nullptr ? k : perm[k]; }

template <class T>
struct Pointwise {
  std::vector<Part<T>> parts;
  int64_t rows, in, out;
  const float* weight;  // [out][in]
  const int64_t* perm;
  int64_t threads;

  void load(int64_t first, int64_t count, float* to, int64_t ld) const {
    int64_t offset = 0;
    for (const Part<T>& part : parts) {
      load_rows(part, first, count, to + offset, ld);
      offset += part.channels;
    }
  }
  void fetch(int64_t first, Ahead& ahead) const {
    for (const Part<T>& part : parts)
      ahead.read(part.z + first * part.stride, part.stride, part.channels);
  }
};

// Weights as [in][pad(out)].
inline void transpose_weight(const float* weight, const int64_t* perm, int64_t in, int64_t out,
                             float* to) {
  int64_t ld = pad(out);
  for (int64_t k = 0; k < in; ++k) {
    const float* column = weight + permuted(perm, k);
    float* row = to + k * ld;
    for (int64_t n = 0; n < out; ++n) row[n] = column[n * in];
    for (int64_t n = out; n < ld; ++n) row[n] = 0;
  }
}

// float input that needs no normalisation is multiplied where it lies.
inline const float* in_place(const Pointwise<float>& op, int64_t first, int64_t* stride) {
  const Part<float>& part = op.parts[0];
  if (op.parts.size() > 1 || part.affine() || part.relu) return nullptr;
  *stride = part.stride;
  return part.z + first * part.stride;
}
inline const float* in_place(const Pointwise<bf16>&, int64_t, int64_t*) { return nullptr; }

// Moments are computed unless mean is null.
template <class T>
void pointwise_forward(const Pointwise<T>& op, const Output<T>& out, float* mean, float* var) {
  int64_t ld_in = pad(op.in), ld_out = pad(op.out);
  static thread_local Scratch weights;
  float* packed = weights.floats(op.in * ld_out);
  transpose_weight(op.weight, op.perm, op.in, op.out, packed);
  bool wanted = mean != nullptr;
  std::vector<std::unique_ptr<Moments>> moments(op.threads);
  for_shares(op.threads, [&](int64_t t) {
    static thread_local Scratch scratch;
    if (wanted) moments[t] = std::make_unique<Moments>(op.out);
    Share mine = share(op.rows, t, op.threads);
    int64_t step = block_rows(op.rows, ld_in + ld_out, op.threads);
    float* a = scratch.floats(step * (ld_in + ld_out));
    float* c = a + step * ld_in;
    for (int64_t first = mine.begin; first < mine.end; first += step) {
      int64_t rows = least(step, mine.end - first), stride = ld_in;
      const float* left = in_place(op, first, &stride);
      if (left == nullptr) {
        op.load(first, rows, a, ld_in);
        left = a;
      }
      Ahead ahead(least(step, mine.end - first - rows));
      op.fetch(first + rows, ahead);
      ahead.write(out.z + first * out.channels, out.channels, out.channels);
      gemm(rows, ld_out, op.in, left, stride, 1, packed, ld_out, c, ld_out, false, &ahead);
      store_rows(out, first, rows, c, ld_out, moments[t].get());
    }
  });
  if (!wanted) return;
  for (int64_t t = 1; t < op.threads; ++t) moments[0]->add(*moments[t]);
  moments[0]->write(mean, var);
}

// Fills the parts' gradients and dweight [out][in].
template <class T>
void pointwise_backward(const Pointwise<T>& op, const OutputGradient<T>& gradient, float* dweight) {
  int64_t ld_in = pad(op.in), ld_out = pad(op.out);
  static thread_local Scratch weights;
  float* right = weights.floats(op.out * ld_in);
  for (int64_t n = 0; n < op.out; ++n) {
    for (int64_t k = 0; k < op.in; ++k)
      right[n * ld_in + k] = op.weight[n * op.in + permuted(op.perm, k)];
    for (int64_t k = op.in; k < ld_in; ++k) right[n * ld_in + k] = 0;
  }
  static thread_local Scratch partial_scratch;
  int64_t sum_floats = op.out * ld_in;
  float* partial = partial_scratch.floats(op.threads * sum_floats);
  std::vector<std::unique_ptr<AffineGradient>> sums(op.threads);
  for_shares(op.threads, [&](int64_t t) {
    static thread_local Scratch scratch;
    float* dw = partial + t * sum_floats;
    std::memset(dw, 0, sum_floats * 4);
    sums[t] = std::make_unique<AffineGradient>(op.in);
    Share mine = share(op.rows, t, op.threads);
    int64_t step = block_rows(op.rows, 2 * ld_in + ld_out, op.threads);
    float* a = scratch.floats(step * (2 * ld_in + ld_out));
    float *da = a + step * ld_in, *g = da + step * ld_in;
    for (int64_t first = mine.begin; first < mine.end; first += step) {
      int64_t rows = least(step, mine.end - first);
      op.load(first, rows, a, ld_in);
      gradient.load_rows(first, rows, g, ld_out);
      Ahead ahead(least(step, mine.end - first - rows));
      op.fetch(first + rows, ahead);
      gradient.fetch(first + rows, ahead);
      for (const Part<T>& part : op.parts)
        if (part.dz != nullptr)
          ahead.write(part.dz + first * part.dz_stride, part.dz_stride, part.channels);
      gemm(op.out, ld_in, rows, g, 1, ld_out, a, ld_in, dw, ld_in, true);
      gemm(rows, ld_in, op.out, g, ld_out, 1, right, ld_in, da, ld_in, false, &ahead);
      int64_t offset = 0;
      for (const Part<T>& part : op.parts) {
        if (part.dz != nullptr)
          store_gradient_rows(part, first, rows, a + offset, da + offset, ld_in, offset, *sums[t]);
        offset += part.channels;
      }
    }
  });
  for_shares(op.threads, [&](int64_t t) {
    Share mine = share(op.out, t, op.threads);
    for (int64_t n = mine.begin; n < mine.end; ++n)
      for (int64_t k = 0; k < op.in; ++k) {
        float total = 0;
        for (int64_t s = 0; s < op.threads; ++s) total += partial[s * sum_floats + n * ld_in + k];
        dweight[n * op.in + permuted(op.perm, k)] = total;
      }
  });
  for (int64_t t = 1; t < op.threads; ++t) sums[0]->add(*sums[t]);
  int64_t offset = 0;
  for (const Part<T>& part : op.parts) {
    sums[0]->write(part, offset);
    offset += part.channels;
  }
}

}  // namespace sfn
