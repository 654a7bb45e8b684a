// 3x3 depthwise convolution, padding 1, stride 1 or 2: one image and VL channels at a time, in a
// plane that the cache holds.
#pragma once
#include <memory>

#include "parts.hpp"
#include "scratch.hpp"

namespace sfn {

template <class T>
struct Depthwise {
  std::vector<Part<T>> parts;
  int64_t channels, images, height, width, stride;
  const float* weight;  // [channels][9]
  int64_t threads;

  int64_t out_height() const { return (height - 1) / stride + 1; }
  int64_t out_width() const { return (width - 1) / stride + 1; }

  // A vector of channels: of which part, where in it, and the number of its first channel in the
  // whole.
  struct Column {
    const Part<T>* part;
    Strip at;
    int64_t channel;
  };
  std::vector<Column> columns() const {
    std::vector<Column> all;
    int64_t offset = 0;
    for (const Part<T>& part : parts) {
      for (int64_t s = 0; s < strips(part.channels); ++s) {
        Strip at = strip(part.channels, s);
        all.push_back({&part, at, offset + at.start});
      }
      offset += part.channels;
    }
    return all;
  }

  struct Taps {
    vf w[9];
  };
  Taps taps(const Column& column) const {
    Taps taps;
    for (int k = 0; k < 9; ++k) {
      taps.w[k] = vf{};
      for (int64_t l = 0; l < column.at.lanes; ++l)
        taps.w[k][l] = weight[(column.channel + l) * 9 + k];
    }
    return taps;
  }
  int64_t plane_floats() const { return (height + 2) * (width + 2) * VL; }

  // Normalised values with a border of zeros.
  void load_plane(int64_t image, const Column& column, float* plane) const {
    const Part<T>& part = *column.part;
    Strip at = column.at;
    Affine affine(part, at);
    int64_t ld = (width + 2) * VL;
    const T* z = part.z + image * height * width * part.stride + at.start;
    std::memset(plane, 0, ld * 4);
    std::memset(plane + (height + 1) * ld, 0, ld * 4);
    by_lanes(at.lanes, [&](auto lanes) {
      by_case(affine, [&](auto normalise) {
        for (int64_t h = 0; h < height; ++h) {
          float* row = plane + (h + 1) * ld;
          store(row, vf{});
          for (int64_t w = 0; w < width; ++w, z += part.stride)
            store(row + (w + 1) * VL, normalise(load_n(z, lanes)));
          store(row + (width + 1) * VL, vf{});
        }
      });
    });
  }
};

template <class T>
void depthwise_forward(const Depthwise<T>& op, const Output<T>& out, float* mean, float* var) {
  int64_t oh = op.out_height(), ow = op.out_width();
  auto columns = op.columns();
  int64_t per_image = columns.size();
  bool wanted = mean != nullptr;
  std::vector<std::unique_ptr<Moments>> moments(op.threads);
  for_shares(op.threads, [&](int64_t t) {
    static thread_local Scratch scratch;
    float* plane = scratch.floats(op.plane_floats());
    if (wanted) moments[t] = std::make_unique<Moments>(out.channels);
    Share mine = share(op.images * per_image, t, op.threads);
    for (int64_t item = mine.begin; item < mine.end; ++item) {
      int64_t image = item / per_image;
      const auto& column = columns[item % per_image];
      Strip at = column.at;
      op.load_plane(image, column, plane);
      auto taps = op.taps(column);
      vf bias = out.bias == nullptr ? vf{} : load_n(out.bias + column.channel, at.lanes);
      T* z = out.z + image * oh * ow * out.channels + column.channel;
      vf origin{}, sum{}, squares{};
      int64_t ld = (op.width + 2) * VL;
      by_lanes(at.lanes, [&](auto lanes) {
        for (int64_t h = 0; h < oh; ++h) {
          const float* top = plane + h * op.stride * ld;
          T* line = z + h * ow * out.channels;
          for (int64_t w = 0; w < ow; ++w) {
            const float* p = top + w * op.stride * VL;
            vf v = bias;
            for (int kh = 0; kh < 3; ++kh)
              for (int kw = 0; kw < 3; ++kw) v += taps.w[kh * 3 + kw] * load(p + kh * ld + kw * VL);
            store_n(line + w * out.channels, out.relu ? relu(v) : v, lanes);
            if (!wanted) continue;
            vf d = kept(v, z) - origin;
            sum += d;
            squares += d * d;
          }
          if (!wanted || h > 0) continue;
          // The first line is processed again, relative to its own mean.
          origin = sum / float(ow);
          sum = squares = vf{};
          for (int64_t w = 0; w < ow; ++w) {
            vf d = load_n(line + w * out.channels, lanes) - origin;
            sum += d;
            squares += d * d;
          }
        }
      });
      if (wanted)
        for (int64_t l = at.fresh; l < at.lanes; ++l)
          moments[t]->add(column.channel + l, oh * ow, origin[l], sum[l], squares[l]);
    }
  });
  if (!wanted) return;
  for (int64_t t = 1; t < op.threads; ++t) moments[0]->add(*moments[t]);
  moments[0]->write(mean, var);
}

// The gradient of one input pixel, from the outputs that read it. `g` has a border of zeros.
inline vf gathered(const float* g, int64_t ld, int64_t h, int64_t w, int64_t stride,
                   const vf* taps) {
  vf v{};
  if (stride == 1) {
    const float* p = g + h * ld + w * VL;
    for (int kh = 0; kh < 3; ++kh)
      for (int kw = 0; kw < 3; ++kw) v += taps[8 - kh * 3 - kw] * load(p + kh * ld + kw * VL);
    return v;
  }
  // Output row o saw input rows 2o-1, 2o, 2o+1: an even row is seen by one output, an odd one by
  // two.
  int64_t h0 = h / 2 + 1, w0 = w / 2 + 1;
  int last_h = h % 2, last_w = w % 2;
  for (int i = 0; i <= last_h; ++i)
    for (int j = 0; j <= last_w; ++j) {
      int kh = last_h == 0 ? 1 : 2 - 2 * i, kw = last_w == 0 ? 1 : 2 - 2 * j;
      v += taps[kh * 3 + kw] * load(g + (h0 + i) * ld + (w0 + j) * VL);
    }
  return v;
}

// Fills the parts' gradients and dweight [channels][9].
template <class T>
void depthwise_backward(const Depthwise<T>& op, const OutputGradient<T>& gradient, float* dweight) {
  auto columns = op.columns();
  int64_t channels = op.channels, per_image = columns.size();
  int64_t oh = op.out_height(), ow = op.out_width();
  int64_t ld = (op.width + 2) * VL, g_ld = (ow + 3) * VL, g_floats = (oh + 3) * g_ld;
  std::vector<std::unique_ptr<AffineGradient>> sums(op.threads);
  std::vector<std::vector<double>> partial(op.threads);
  for_shares(op.threads, [&](int64_t t) {
    static thread_local Scratch scratch;
    float* plane = scratch.floats(op.plane_floats() + g_floats);
    float* g = plane + op.plane_floats();
    std::memset(g, 0, g_floats * 4);
    sums[t] = std::make_unique<AffineGradient>(channels);
    partial[t].assign(channels * 9, 0.0);
    Share mine = share(op.images * per_image, t, op.threads);
    for (int64_t item = mine.begin; item < mine.end; ++item) {
      int64_t image = item / per_image;
      const auto& column = columns[item % per_image];
      const Part<T>& part = *column.part;
      Strip at = column.at, in_whole = {column.channel, at.lanes, at.fresh};
      op.load_plane(image, column, plane);
      by_lanes(at.lanes, [&](auto lanes) {
        gradient.by_source(image * oh * ow, in_whole, lanes, [&](auto row) {
          float* to = g + g_ld + VL;
          for (int64_t h = 0, r = 0; h < oh; ++h, to += g_ld)
            for (int64_t w = 0; w < ow; ++w, ++r) store_n(to + w * VL, row(r), lanes);
        });
      });
      vf dw[9] = {};
      for (int64_t h = 0; h < oh; ++h)
        for (int64_t w = 0; w < ow; ++w) {
          vf gv = load(g + (h + 1) * g_ld + (w + 1) * VL);
          const float* p = plane + h * op.stride * ld + w * op.stride * VL;
          for (int kh = 0; kh < 3; ++kh)
            for (int kw = 0; kw < 3; ++kw) dw[kh * 3 + kw] += gv * load(p + kh * ld + kw * VL);
        }
      for (int64_t l = at.fresh; l < at.lanes; ++l)
        for (int j = 0; j < 9; ++j) partial[t][(column.channel + l) * 9 + j] += dw[j][l];
      if (part.dz == nullptr) continue;
      auto taps = op.taps(column);
      Affine affine(part, at);
      const T* z = part.z + image * op.height * op.width * part.stride + at.start;
      T* dz = part.dz + image * op.height * op.width * part.dz_stride + at.start;
      AffineBackward end(affine);
      by_lanes(at.lanes, [&](auto lanes) {
        by_kind(affine, [&](auto active, auto rectify) {
          AffineBackward sum = end;
          for (int64_t h = 0; h < op.height; ++h)
            for (int64_t w = 0; w < op.width; ++w, z += part.stride, dz += part.dz_stride) {
              vf y = load(plane + (h + 1) * ld + (w + 1) * VL);
              store_n(dz,
                      sum(gathered(g, g_ld, h, w, op.stride, taps.w), load_n(z, lanes), y, active,
                          rectify),
                      lanes);
            }
          end = sum;
        });
      });
      if (affine.active) sums[t]->add(in_whole, 0, end.beta, end.scale);
    }
  });
  for (int64_t t = 1; t < op.threads; ++t) {
    sums[0]->add(*sums[t]);
    for (size_t i = 0; i < partial[0].size(); ++i) partial[0][i] += partial[t][i];
  }
  for (size_t i = 0; i < partial[0].size(); ++i) dweight[i] = float(partial[0][i]);
  int64_t offset = 0;
  for (const Part<T>& part : op.parts) {
    sums[0]->write(part, offset);
    offset += part.channels;
  }
}

}  // namespace sfn
