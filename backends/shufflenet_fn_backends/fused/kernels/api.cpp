// The C interface: plain pointers and 64-bit integers, one structure of arguments per operator.
// Every function returns 0, or 1 when memory ran out.
#include "depthwise.hpp"
#include "pointwise.hpp"
#include "pool.hpp"
#include "stem.hpp"

namespace {

using namespace sfn;

template <class F>
int guarded(F&& run) {
  try {
    run();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

template <class T>
T* pointer(int64_t address) {
  return reinterpret_cast<T*>(address);
}

// Fields of an output: z, channels, bias, relu.
template <class T>
Output<T> read_output(const int64_t* f) {
  return {pointer<T>(f[0]), f[1], pointer<const float>(f[2]), f[3] != 0};
}

// Fields of a gradient: g, g_stride, z, z_stride, mean, dmean, dvar, channels, pixels.
template <class T>
OutputGradient<T> read_gradient(const int64_t* f) {
  return {pointer<const T>(f[0]),
          f[1],
          pointer<const T>(f[2]),
          f[3],
          pointer<const float>(f[4]),
          pointer<const float>(f[5]),
          pointer<const float>(f[6]),
          f[7],
          double(f[8])};
}

// Fields: number of parts, rows, in, out, weight, perm, threads.
template <class T>
Pointwise<T> read_pointwise(const int64_t* parts, const int64_t* f) {
  return {read_parts<T>(parts, f[0]),   f[1], f[2], f[3], pointer<const float>(f[4]),
          pointer<const int64_t>(f[5]), f[6]};
}

// Fields: number of parts, channels, images, height, width, stride, weight, threads.
template <class T>
Depthwise<T> read_depthwise(const int64_t* parts, const int64_t* f) {
  return {read_parts<T>(parts, f[0]), f[1], f[2], f[3], f[4], f[5],
          pointer<const float>(f[6]), f[7]};
}

// Fields: x, images, height, width, in, out, weight, threads.
template <class T>
Stem<T> read_stem(const int64_t* f) {
  return {pointer<const T>(f[0]), f[1], f[2], f[3], f[4], f[5], pointer<const float>(f[6]), f[7]};
}

// Fields: images, height, width, threads.
template <class T>
Pool<T> read_pool(const int64_t* parts, const int64_t* f) {
  return {read_parts<T>(parts, 1)[0], f[0], f[1], f[2], f[3]};
}

}  // namespace

#define SFN_API extern "C" __attribute__((visibility("default"))) int
#define SFN_BY_DTYPE(call) \
  return guarded([&] {     \
    if (half) {            \
      using T = bf16;      \
      call;                \
    } else {               \
      using T = float;     \
      call;                \
    }                      \
  })

SFN_API sfn_lanes() { return VL; }

SFN_API sfn_pointwise_forward(int half, const int64_t* parts, const int64_t* op, const int64_t* out,
                              float* mean, float* var) {
  SFN_BY_DTYPE(pointwise_forward<T>(read_pointwise<T>(parts, op), read_output<T>(out), mean, var));
}
SFN_API sfn_pointwise_backward(int half, const int64_t* parts, const int64_t* op,
                               const int64_t* gradient, float* dweight) {
  SFN_BY_DTYPE(
      pointwise_backward<T>(read_pointwise<T>(parts, op), read_gradient<T>(gradient), dweight));
}
SFN_API sfn_depthwise_forward(int half, const int64_t* parts, const int64_t* op, const int64_t* out,
                              float* mean, float* var) {
  SFN_BY_DTYPE(depthwise_forward<T>(read_depthwise<T>(parts, op), read_output<T>(out), mean, var));
}
SFN_API sfn_depthwise_backward(int half, const int64_t* parts, const int64_t* op,
                               const int64_t* gradient, float* dweight) {
  SFN_BY_DTYPE(
      depthwise_backward<T>(read_depthwise<T>(parts, op), read_gradient<T>(gradient), dweight));
}
SFN_API sfn_stem_forward(int half, const int64_t* op, const int64_t* out, float* mean, float* var) {
  SFN_BY_DTYPE(stem_forward<T>(read_stem<T>(op), read_output<T>(out), mean, var));
}
SFN_API sfn_stem_backward(int half, const int64_t* op, const int64_t* gradient, float* dweight) {
  SFN_BY_DTYPE(stem_backward<T>(read_stem<T>(op), read_gradient<T>(gradient), dweight));
}
SFN_API sfn_pool_forward(int half, const int64_t* part, const int64_t* op, void* y,
                         uint8_t* which) {
  SFN_BY_DTYPE(pool_forward<T>(read_pool<T>(part, op), static_cast<T*>(y), which));
}
SFN_API sfn_pool_backward(int half, const int64_t* part, const int64_t* op, const void* dy,
                          const uint8_t* which) {
  SFN_BY_DTYPE(pool_backward<T>(read_pool<T>(part, op), static_cast<const T*>(dy), which));
}
SFN_API sfn_apply_forward(int half, const int64_t* part, int64_t rows, void* y, int64_t y_stride,
                          int64_t threads) {
  SFN_BY_DTYPE(
      apply_forward<T>(read_parts<T>(part, 1)[0], rows, static_cast<T*>(y), y_stride, threads));
}
SFN_API sfn_apply_backward(int half, const int64_t* part, int64_t rows, const void* dy,
                           int64_t dy_stride, int64_t threads) {
  SFN_BY_DTYPE(apply_backward<T>(read_parts<T>(part, 1)[0], rows, static_cast<const T*>(dy),
                                 dy_stride, threads));
}
SFN_API sfn_coefficients_forward(int64_t channels, double eps, const float* mean, const float* var,
                                 const float* weight, const float* bias, float* affine,
                                 float* invstd) {
  coefficients_forward(channels, float(eps), mean, var, weight, bias, affine, invstd);
  return 0;
}
SFN_API sfn_coefficients_backward(int64_t channels, const float* weight, const float* invstd,
                                  const float* daffine, float* dvar, float* dweight) {
  coefficients_backward(channels, weight, invstd, daffine, dvar, dweight);
  return 0;
}
