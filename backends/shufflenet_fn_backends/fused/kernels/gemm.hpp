// C[m][n] (+)= sum over k of A[m][k] B[k][n], for blocks that lie in the cache.
#pragma once
#include "ahead.hpp"
#include "factors.hpp"

namespace sfn {

// Rows by vectors of the accumulator tile: 24 of 32 registers, or 12 of 16 with AVX2.
constexpr int kMaxVectors = VL == 8 ? 2 : 4;
constexpr int tile_rows(int vectors) {
  constexpr int registers = VL == 8 ? 12 : 24;
  return registers / vectors;
}

template <int ROWS, int VECTORS, class E>
inline void tile(int64_t depth, const E* a, int64_t a_row, int64_t a_depth, const E* b,
                 int64_t b_depth, float* c, int64_t c_row, bool accumulate) {
  vf sum[ROWS][VECTORS];
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < VECTORS; ++j) sum[i][j] = accumulate ? load(c + i * c_row + j * VL) : vf{};
  for (int64_t k = 0; k < depth; ++k) {
    decltype(load(b)) right[VECTORS];
    for (int j = 0; j < VECTORS; ++j) right[j] = load(b + k * b_depth + j * VL);
    for (int i = 0; i < ROWS; ++i) {
      auto left = splat(a[i * a_row + k * a_depth]);
      for (int j = 0; j < VECTORS; ++j) sum[i][j] = multiply_add(sum[i][j], left, right[j]);
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < VECTORS; ++j) store(c + i * c_row + j * VL, sum[i][j]);
}

template <int VECTORS, class E>
inline void panel(int64_t rows, int64_t depth, const E* a, int64_t a_row, int64_t a_depth,
                  const E* b, int64_t b_depth, float* c, int64_t c_row, bool accumulate,
                  Ahead* ahead) {
  constexpr int ROWS = tile_rows(VECTORS);
  int64_t m = 0;
  for (; m + ROWS <= rows; m += ROWS) {
    if (ahead != nullptr) (*ahead)();
    tile<ROWS, VECTORS>(depth, a + m * a_row, a_row, a_depth, b, b_depth, c + m * c_row, c_row,
                        accumulate);
  }
  for (; m + 2 <= rows; m += 2)
    tile<2, VECTORS>(depth, a + m * a_row, a_row, a_depth, b, b_depth, c + m * c_row, c_row,
                     accumulate);
  for (; m < rows; ++m)
    tile<1, VECTORS>(depth, a + m * a_row, a_row, a_depth, b, b_depth, c + m * c_row, c_row,
                     accumulate);
}

// `columns` is a multiple of VL; `depth` counts elements of A and B, which may hold two terms. Rows of B and C
// lie b_depth and c_row elements apart. `ahead` is fetched meanwhile.
template <class E>
inline void gemm(int64_t rows, int64_t columns, int64_t depth, const E* a, int64_t a_row,
                 int64_t a_depth, const E* b, int64_t b_depth, float* c, int64_t c_row,
                 bool accumulate, Ahead* ahead = nullptr) {
  if (ahead != nullptr) {
    int64_t tiles = 0;
    for (int64_t n = 0; n < columns; n += kMaxVectors * VL)
      tiles += rows / tile_rows(int(least(kMaxVectors, (columns - n) / VL)));
    ahead->spread(tiles);
  }
  for (int64_t n = 0; n < columns; n += kMaxVectors * VL) {
    int64_t vectors = least(kMaxVectors, (columns - n) / VL);
    const E* right = b + n;
    float* out = c + n;
    switch (vectors) {
      case 1:
        panel<1>(rows, depth, a, a_row, a_depth, right, b_depth, out, c_row, accumulate,
                 ahead);
        break;
      case 2:
        panel<2>(rows, depth, a, a_row, a_depth, right, b_depth, out, c_row, accumulate,
                 ahead);
        break;
#if !defined(__AVX__) || defined(__AVX512F__)
      case 3:
        panel<3>(rows, depth, a, a_row, a_depth, right, b_depth, out, c_row, accumulate,
                 ahead);
        break;
      default:
        panel<4>(rows, depth, a, a_row, a_depth, right, b_depth, out, c_row, accumulate,
                 ahead);
#endif
    }
  }
}

}  // namespace sfn
