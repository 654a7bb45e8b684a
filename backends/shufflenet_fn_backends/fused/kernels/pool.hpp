// 3x3 maximum with stride 2 and padding 1 of a normalised part, and the part itself made into a
// tensor.
#pragma once
#include "parts.hpp"
#include "scratch.hpp"

namespace sfn {

template <class T>
struct Pool {
  Part<T> part;
  int64_t images, height, width, threads;

  int64_t out_height() const { return (height - 1) / 2 + 1; }
  int64_t out_width() const { return (width - 1) / 2 + 1; }
  int64_t items() const { return images * strips(part.channels); }
};

// y and which (0 to 8, row by row in the window) are [images][oh][ow][channels].
template <class T>
void pool_forward(const Pool<T>& op, T* y, uint8_t* which) {
  int64_t channels = op.part.channels, per_image = strips(channels);
  int64_t oh = op.out_height(), ow = op.out_width(), ld = (op.width + 2) * VL;
  for_shares(op.threads, [&](int64_t t) {
    static thread_local Scratch scratch;
    float* ring = scratch.floats(3 * ld);  // input row h lies in line (h + 3) % 3
    vf nothing = splat(-INFINITY);
    Share mine = share(op.items(), t, op.threads);
    for (int64_t item = mine.begin; item < mine.end; ++item) {
      int64_t image = item / per_image;
      Strip at = strip(channels, item % per_image);
      Affine affine(op.part, at);
      auto fill = [&](int64_t h) {
        float* row = ring + (h + 3) % 3 * ld;
        if (h < 0 || h >= op.height) {
          for (int64_t w = 0; w < op.width + 2; ++w) store(row + w * VL, nothing);
          return;
        }
        const T* z = op.part.z + (image * op.height + h) * op.width * op.part.stride + at.start;
        store(row, nothing);
        by_lanes(at.lanes, [&](auto lanes) {
          by_case(affine, [&](auto normalise) {
            for (int64_t w = 0; w < op.width; ++w, z += op.part.stride)
              store(row + (w + 1) * VL, normalise(load_n(z, lanes)));
          });
        });
        store(row + (op.width + 1) * VL, nothing);
      };
      fill(-1);
      for (int64_t h = 0; h < oh; ++h) {
        fill(2 * h);
        fill(2 * h + 1);
        const float* rows[3] = {ring + (2 * h + 2) % 3 * ld, ring + (2 * h + 3) % 3 * ld,
                                ring + (2 * h + 4) % 3 * ld};
        int64_t at_out = (image * oh + h) * ow * channels + at.start;
        for (int64_t w = 0; w < ow; ++w, at_out += channels) {
          vf best = load(rows[0] + 2 * w * VL);
          vi index{};
          for (int k = 1; k < 9; ++k) {
            vf v = load(rows[k / 3] + (2 * w + k % 3) * VL);
            vi better = (v > best) | (v != v);
            best = select(better, v, best);
            index = (index & ~better) | ((vi{} + k) & better);
          }
          store_n(y + at_out, best, at.lanes);
          store_n(which + at_out, index, at.lanes);
        }
      }
    }
  });
}

template <class T>
void pool_backward(const Pool<T>& op, const T* dy, const uint8_t* which) {
  int64_t channels = op.part.channels, per_image = strips(channels);
  int64_t oh = op.out_height(), ow = op.out_width();
  std::vector<AffineGradient> sums(op.threads, AffineGradient(channels));
  for_shares(op.threads, [&](int64_t t) {
    Share mine = share(op.items(), t, op.threads);
    for (int64_t item = mine.begin; item < mine.end; ++item) {
      int64_t image = item / per_image;
      Strip at = strip(channels, item % per_image);
      Affine affine(op.part, at);
      AffineBackward end(affine);
      by_lanes(at.lanes, [&](auto lanes) {
        by_kind(affine, [&](auto active, auto rectify) {
          AffineBackward sum = end;
          for (int64_t h = 0; h < op.height; ++h) {
            int64_t row = (image * op.height + h) * op.width;
            const T* z = op.part.z + row * op.part.stride + at.start;
            T* dz = op.part.dz + row * op.part.dz_stride + at.start;
            for (int64_t w = 0; w < op.width; ++w, z += op.part.stride, dz += op.part.dz_stride) {
              vf d{};
              // Windows 2o-1 to 2o+1: an even row lies in the middle of one, an odd one at the rim
              // of two.
              for (int64_t o = h / 2; o <= least((h + 1) / 2, oh - 1); ++o)
                for (int64_t p = w / 2; p <= least((w + 1) / 2, ow - 1); ++p) {
                  int place = int((h + 1 - 2 * o) * 3 + (w + 1 - 2 * p));
                  int64_t from = ((image * oh + o) * ow + p) * channels + at.start;
                  vi hit = load_index(which + from, lanes) == place;
                  d += (vf)((vi)load_n(dy + from, lanes) & hit);
                }
              vf zv = load_n(z, lanes);
              store_n(dz, sum(d, zv, affine(zv), active, rectify), lanes);
            }
          }
          end = sum;
        });
      });
      if (affine.active) sums[t].add(at, 0, end.beta, end.scale);
    }
  });
  for (int64_t t = 1; t < op.threads; ++t) sums[0].add(sums[t]);
  sums[0].write(op.part, 0);
}

// y[row][channel], rows `y_stride` elements apart.
template <class T>
void apply_forward(const Part<T>& part, int64_t rows, T* y, int64_t y_stride, int64_t threads) {
  for_shares(threads, [&](int64_t t) {
    Share mine = share(rows, t, threads);
    for (int64_t s = 0; s < strips(part.channels); ++s) {
      Strip at = strip(part.channels, s);
      Affine affine(part, at);
      for (int64_t r = mine.begin; r < mine.end; ++r)
        store_n(y + r * y_stride + at.start,
                affine(load_n(part.z + r * part.stride + at.start, at.lanes)), at.lanes);
    }
  });
}

template <class T>
void apply_backward(const Part<T>& part, int64_t rows, const T* dy, int64_t dy_stride,
                    int64_t threads) {
  std::vector<AffineGradient> sums(threads, AffineGradient(part.channels));
  for_shares(threads, [&](int64_t t) {
    Share mine = share(rows, t, threads);
    constexpr int64_t kBlock = 1024;  // float sums stay short
    for (int64_t first = mine.begin; first < mine.end; first += kBlock)
      for (int64_t s = 0; s < strips(part.channels); ++s) {
        Strip at = strip(part.channels, s);
        Affine affine(part, at);
        AffineBackward end(affine);
        for (int64_t r = first; r < least(first + kBlock, mine.end); ++r) {
          vf z = load_n(part.z + r * part.stride + at.start, at.lanes);
          vf d = load_n(dy + r * dy_stride + at.start, at.lanes);
          store_n(part.dz + r * part.dz_stride + at.start,
                  end(d, z, affine(z), affine.active, affine.rectify), at.lanes);
        }
        if (affine.active) sums[t].add(at, 0, end.beta, end.scale);
      }
  });
  for (int64_t t = 1; t < threads; ++t) sums[0].add(sums[t]);
  sums[0].write(part, 0);
}

}  // namespace sfn
