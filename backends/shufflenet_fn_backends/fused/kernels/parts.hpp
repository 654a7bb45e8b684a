// A feature map as parts: ranges of channels of NHWC tensors, each with a batch norm (and ReLU)
// pending: y = (z - mean) * scale + beta. The reader of a part applies it while it loads the part
// into the cache.
#pragma once
#include <vector>

#include "ahead.hpp"
#include "factors.hpp"
#include "moments.hpp"

namespace sfn {

template <class T>
struct Part {
  const T* z;
  int64_t stride;  // elements from a pixel to the next
  int64_t channels;
  const float *mean, *scale, *beta;  // all null: z is taken as it is
  bool relu;
  T* dz;  // gradients, for a backward pass only
  int64_t dz_stride;
  float *dmean, *dscale, *dbeta;

  bool affine() const { return mean != nullptr; }
};

constexpr int kPartFields = 12;

template <class T>
std::vector<Part<T>> read_parts(const int64_t* fields, int64_t count) {
  std::vector<Part<T>> parts;
  for (int64_t i = 0; i < count; ++i, fields += kPartFields)
    parts.push_back({(const T*)fields[0], fields[1], fields[2], (const float*)fields[3],
                     (const float*)fields[4], (const float*)fields[5], fields[6] != 0,
                     (T*)fields[7], fields[8], (float*)fields[9], (float*)fields[10],
                     (float*)fields[11]});
  return parts;
}

// The pending normalisation of one vector of channels.
struct Affine {
  vf mean, scale, beta;
  bool active, rectify;

  template <class T>
  Affine(const Part<T>& part, Strip at) : active(part.affine()), rectify(part.relu) {
    mean = active ? load_n(part.mean + at.start, at.lanes) : vf{};
    scale = active ? load_n(part.scale + at.start, at.lanes) : splat(1.0f);
    beta = active ? load_n(part.beta + at.start, at.lanes) : vf{};
  }

  template <class Active>
  vf normalised(vf z, Active active) const {
    return active ? (z - mean) * scale + beta : z;
  }
  vf operator()(vf z) const {
    vf y = normalised(z, active);
    return rectify ? relu(y) : y;
  }
};

// f(active, rectify), with the most frequent case as constants, so that inner loops have no
// branches.
template <class F>
inline void by_kind(const Affine& affine, F&& f) {
  if (affine.active && affine.rectify)
    f(std::true_type(), std::true_type());
  else
    f(affine.active, affine.rectify);
}

// f(function of a vector), with the most frequent case compiled without branches.
template <class F>
inline void by_case(const Affine& affine, F&& f) {
  vf mean = affine.mean, scale = affine.scale, beta = affine.beta;
  if (affine.active && affine.rectify)
    f([=](vf z) { return relu((z - mean) * scale + beta); });
  else
    f([&](vf z) { return affine(z); });
}

// rows x channels of a part, normalised, to the channels of a block from `offset`.
template <class T, class B>
inline void load_rows(const Part<T>& part, int64_t first, int64_t rows, const B& to, int64_t offset) {
  for (int64_t s = 0; s < strips(part.channels); ++s) {
    Strip at = strip(part.channels, s);
    Affine affine(part, at);
    const T* z = part.z + first * part.stride + at.start;
    by_lanes(at.lanes, [&](auto lanes) {
      by_case(affine, [&](auto normalise) {
        by_twos(
            rows, [&](int64_t r) { return normalise(load_n(z + r * part.stride, lanes)); },
            [&](int64_t r, vf v, vf w) { to.put(r, offset + at.start, v, w, lanes); });
      });
    });
  }
}

// Sums over pixels of the gradients of beta and scale, in double between blocks.
struct AffineGradient {
  std::vector<double> beta, scale;
  explicit AffineGradient(int64_t channels) : beta(channels), scale(channels) {}

  void add(Strip at, int64_t offset, vf beta_sum, vf scale_sum) {
    for (int64_t l = at.fresh; l < at.lanes; ++l) {
      beta[offset + at.start + l] += beta_sum[l];
      scale[offset + at.start + l] += scale_sum[l];
    }
  }
  void add(const AffineGradient& other) {
    for (size_t c = 0; c < beta.size(); ++c) beta[c] += other.beta[c], scale[c] += other.scale[c];
  }
  template <class T>
  void write(const Part<T>& part, int64_t offset) const {
    if (part.dbeta == nullptr) return;
    for (int64_t c = 0; c < part.channels; ++c) {
      part.dbeta[c] = float(beta[offset + c]);
      part.dscale[c] = float(scale[offset + c]);
      part.dmean[c] = float(-double(part.scale[c]) * beta[offset + c]);
    }
  }
};

// The end of a gradient, a vector at a time: through ReLU and batch norm, whose own gradients it
// sums.
struct AffineBackward {
  vf mean, factor, beta{}, scale{};
  explicit AffineBackward(const Affine& affine) : mean(affine.mean), factor(affine.scale) {}

  // From the gradient of y = relu((z - mean) * scale + beta) to that of z.
  template <class Active, class Rectify>
  vf operator()(vf d, vf z, vf y, Active active, Rectify rectify) {
    if (rectify) d = (vf)((vi)d & ~(y <= 0.0f));
    if (!active) return d;
    beta += d;
    scale += d * (z - mean);
    return d * factor;
  }
};

// From the gradient of the normalised part (`da`) to that of z.
template <class T>
inline void store_gradient_rows(const Part<T>& part, int64_t first, int64_t rows, const float* da,
                                int64_t ld, int64_t offset, AffineGradient& sums) {
  for (int64_t s = 0; s < strips(part.channels); ++s) {
    Strip at = strip(part.channels, s);
    Affine affine(part, at);
    AffineBackward end(affine);
    const T* z = part.z + first * part.stride + at.start;
    T* dz = part.dz + first * part.dz_stride + at.start;
    const float* da_at = da + offset + at.start;
    by_lanes(at.lanes, [&](auto lanes) {
      by_kind(affine, [&](auto active, auto rectify) {
        AffineBackward sum = end;  // in registers
        for (int64_t r = 0; r < rows; ++r) {
          vf value = load_n(z + r * part.stride, lanes);
          store_n(dz + r * part.dz_stride,
                  sum(load_n(da_at + r * ld, lanes), value, affine.normalised(value, active),
                      active, rectify),
                  lanes);
        }
        end = sum;
      });
    });
    if (affine.active) sums.add(at, offset, end.beta, end.scale);
  }
}

// The result of a convolution: its destination, and the operations on it before it is stored.
template <class T>
struct Output {
  T* z;
  int64_t channels;
  const float* bias;  // may be null
  bool relu;
};

// A value near those of the block, from several rows, so that a single outlier does not spoil it.
inline vf mean_of_first(const float* from, int64_t rows, int64_t ld, int64_t lanes) {
  int64_t count = least(rows, 16);
  vf total{};
  for (int64_t r = 0; r < count; ++r) total += load_n(from + r * ld, lanes);
  return total / float(count);
}

// Convolution results c[row][channel] to memory, and their moments if asked for.
template <class T>
inline void store_rows(const Output<T>& out, int64_t first, int64_t rows, const float* c,
                       int64_t ld, Moments* moments) {
  for (int64_t s = 0; s < strips(out.channels); ++s) {
    Strip at = strip(out.channels, s);
    vf bias = out.bias == nullptr ? vf{} : load_n(out.bias + at.start, at.lanes);
    T* z = out.z + first * out.channels + at.start;
    const float* from = c + at.start;
    vf origin = mean_of_first(from, rows, ld, at.lanes) + bias, sum{}, squares{};
    by_lanes(at.lanes, [&](auto lanes) {
      if (moments != nullptr) {  // a training step: no ReLU yet
        for (int64_t r = 0; r < rows; ++r) {
          vf v = load_n(from + r * ld, lanes) + bias;
          store_n(z + r * out.channels, v, lanes);
          vf d = kept(v, z) - origin;
          sum += d;
          squares += d * d;
        }
        return;
      }
      for (int64_t r = 0; r < rows; ++r) {
        vf v = load_n(from + r * ld, lanes) + bias;
        store_n(z + r * out.channels, out.relu ? relu(v) : v, lanes);
      }
    });
    if (moments != nullptr)
      for (int64_t l = at.fresh; l < at.lanes; ++l)
        moments->add(at.start + l, rows, origin[l], sum[l], squares[l]);
  }
}

// The gradient of a convolution's result, including the gradients through its moments:
// dz = g + dmean / n + 2 dvar (z - mean) / n.
template <class T>
struct OutputGradient {
  const T* g;  // null where nothing but the moments was used
  int64_t g_stride;
  const T* z;  // null where the moments were not used
  int64_t z_stride;
  const float *mean, *dmean, *dvar;
  int64_t channels;
  double count;

  struct Coefficients {
    vf mean{}, constant{}, slope{};
  };
  Coefficients coefficients(Strip at) const {
    Coefficients k;
    if (z == nullptr) return k;
    for (int64_t l = 0; l < at.lanes; ++l) {
      int64_t c = at.start + l;
      k.mean[l] = mean[c];
      k.constant[l] = float(double(dmean[c]) / count);
      k.slope[l] = float(2.0 * double(dvar[c]) / count);
    }
    return k;
  }
  // f(function of a row), which returns a vector of channels, with the most frequent case compiled
  // without branches.
  template <class Lanes, class F>
  void by_source(int64_t first, Strip at, Lanes lanes, F&& f) const {
    Coefficients k = coefficients(at);
    vf mean = k.mean, constant = k.constant, slope = k.slope;
    const T* g_at = g == nullptr ? nullptr : g + first * g_stride + at.start;
    const T* z_at = z == nullptr ? nullptr : z + first * z_stride + at.start;
    auto moments = [=](int64_t r) {
      return constant + slope * (load_n(z_at + r * z_stride, lanes) - mean);
    };
    if (g_at != nullptr && z_at != nullptr)
      return f([=](int64_t r) { return load_n(g_at + r * g_stride, lanes) + moments(r); });
    f([=](int64_t r) {
      vf v = g_at == nullptr ? vf{} : load_n(g_at + r * g_stride, lanes);
      return z_at == nullptr ? v : v + moments(r);
    });
  }
  void fetch(int64_t first, Ahead& ahead) const {
    if (g != nullptr) ahead.read(g + first * g_stride, g_stride, channels);
    if (z != nullptr) ahead.read(z + first * z_stride, z_stride, channels);
  }
  template <class B>
  void load_rows(int64_t first, int64_t rows, const B& to) const {
    for (int64_t s = 0; s < strips(channels); ++s) {
      Strip at = strip(channels, s);
      by_lanes(at.lanes, [&](auto lanes) {
        by_source(first, at, lanes, [&](auto row) {
          by_twos(rows, row, [&](int64_t r, vf v, vf w) { to.put(r, at.start, v, w, lanes); });
        });
      });
    }
  }
};

// The coefficients (mean, scale, beta)[channels] of a batch norm.
inline void coefficients_forward(int64_t channels, float eps, const float* mean, const float* var,
                                 const float* weight, const float* bias, float* affine,
                                 float* invstd) {
  for (int64_t c = 0; c < channels; ++c) {
    invstd[c] = 1.0f / std::sqrt(var[c] + eps);
    affine[c] = mean[c];
    affine[channels + c] = weight[c] * invstd[c];
    affine[2 * channels + c] = bias[c];
  }
}

// The gradients of mean and bias are those of their coefficients. The derivative of
// (var + eps)^(-1/2) is -invstd^3 / 2.
inline void coefficients_backward(int64_t channels, const float* weight, const float* invstd,
                                  const float* daffine, float* dvar, float* dweight) {
  for (int64_t c = 0; c < channels; ++c) {
    dweight[c] = daffine[channels + c] * invstd[c];
    dvar[c] = dweight[c] * weight[c] * (invstd[c] * invstd[c]) * -0.5f;
  }
}

}  // namespace sfn
