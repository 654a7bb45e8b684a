// 1x1 convolution over the parts of a feature map: normalise, multiply, gather moments, one pass
// each way.
#pragma once
#include <memory>

#include "gemm.hpp"
#include "parts.hpp"
#include "scratch.hpp"

namespace sfn {

// Rows of a block, an even number: as many as fit 144 KiB, which leaves room for the weights in a second-level
// cache of 512 KiB and is as fast in one of 1 MiB.
inline int64_t block_rows(int64_t rows, int64_t floats_per_row, int64_t threads) {
  int64_t fitting = most(48, least(384, 36 * 1024 / most(1, floats_per_row))) / 24 * 24;
  int64_t per_thread = (rows + threads - 1) / threads;
  return (least(fitting, per_thread) + 1) / 2 * 2;
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

  template <class B>
  void load(int64_t first, int64_t count, const B& to) const {
    int64_t offset = 0;
    for (const Part<T>& part : parts) {
      load_rows(part, first, count, to, offset);
      offset += part.channels;
    }
  }
  void fetch(int64_t first, Ahead& ahead) const {
    for (const Part<T>& part : parts)
      ahead.read(part.z + first * part.stride, part.stride, part.channels);
  }
};

// An input that needs no normalisation is multiplied where it lies, `stride` factors from row to row.
template <class T>
inline const Factor<T>* in_place(const Pointwise<T>& op, int64_t first, int64_t* stride) {
  using E = Factor<T>;
  constexpr int64_t terms = kPairs<E> ? 2 : 1;
  const Part<T>& part = op.parts[0];
  if (sizeof(T) * terms != sizeof(E) || op.parts.size() > 1 || part.affine() || part.relu ||
      op.in % terms != 0 || part.stride % terms != 0)
    return nullptr;
  *stride = part.stride / terms;
  return reinterpret_cast<const E*>(part.z + first * part.stride);
}

// Moments are computed unless mean is null.
template <class T>
void pointwise_forward(const Pointwise<T>& op, const Output<T>& out, float* mean, float* var) {
  using E = Factor<T>;
  using Input = Block<E, true, false>;
  int64_t ld_in = pad(op.in), ld_out = pad(op.out), depth = factors<E>(op.in);
  static thread_local Scratch weights;
  E* right = weights.zeros<E>(depth * ld_out);
  for (int64_t k = 0; k < op.in; ++k)
    for (int64_t n = 0; n < op.out; ++n)
      put_right(right, ld_out, k, n, op.weight[n * op.in + permuted(op.perm, k)]);
  bool wanted = mean != nullptr;
  std::vector<std::unique_ptr<Moments>> moments(op.threads);
  for_shares(op.threads, [&](int64_t t) {
    static thread_local Scratch scratch;
    if (wanted) moments[t] = std::make_unique<Moments>(op.out);
    Share mine = share(op.rows, t, op.threads);
    int64_t step = block_rows(op.rows, Input::floats(1, ld_in) + ld_out, op.threads);
    float* c = scratch.floats(step * ld_out + Input::floats(step, ld_in));
    Input a(c + step * ld_out, step, ld_in);
    a.end_at(op.in, step);
    for (int64_t first = mine.begin; first < mine.end; first += step) {
      int64_t rows = least(step, mine.end - first), stride = a.across_row();
      const E* left = in_place(op, first, &stride);
      if (left == nullptr) {
        op.load(first, rows, a);
        left = a.across;
      }
      Ahead ahead(least(step, mine.end - first - rows));
      op.fetch(first + rows, ahead);
      ahead.write(out.z + first * out.channels, out.channels, out.channels);
      gemm(rows, ld_out, depth, left, stride, 1, right, ld_out, c, ld_out, false, &ahead);
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
  using E = Factor<T>;
  using Input = Block<E, false, true>;
  using Gradient = Block<E, true, true>;
  int64_t ld_in = pad(op.in), ld_out = pad(op.out), depth = factors<E>(op.out);
  static thread_local Scratch weights;
  E* right = weights.zeros<E>(depth * ld_in);
  for (int64_t n = 0; n < op.out; ++n)
    for (int64_t k = 0; k < op.in; ++k)
      put_right(right, ld_in, n, k, op.weight[n * op.in + permuted(op.perm, k)]);
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
    int64_t floats = ld_in + Input::floats(1, ld_in) + Gradient::floats(1, ld_out);
    int64_t step = block_rows(op.rows, floats, op.threads);
    float* da = scratch.floats(step * floats);
    Input a(da + step * ld_in, step, ld_in);
    Gradient g(da + step * ld_in + Input::floats(step, ld_in), step, ld_out);
    g.end_at(op.out, step);
    for (int64_t first = mine.begin; first < mine.end; first += step) {
      int64_t rows = least(step, mine.end - first);
      op.load(first, rows, a);
      gradient.load_rows(first, rows, g);
      Ahead ahead(least(step, mine.end - first - rows));
      op.fetch(first + rows, ahead);
      gradient.fetch(first + rows, ahead);
      for (const Part<T>& part : op.parts)
        if (part.dz != nullptr)
          ahead.write(part.dz + first * part.dz_stride, part.dz_stride, part.channels);
      gemm(op.out, ld_in, factors<E>(rows), g.down, 1, ld_out, a.down, ld_in, dw, ld_in, true);
      gemm(rows, ld_in, depth, g.across, g.across_row(), 1, right, ld_in, da, ld_in, false, &ahead);
      int64_t offset = 0;
      for (const Part<T>& part : op.parts) {
        if (part.dz != nullptr)
          store_gradient_rows(part, first, rows, da, ld_in, offset, *sums[t]);
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
