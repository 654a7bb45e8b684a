// Functions of a list of tensors in one launch. The 910A class has none of them.

#include <ATen/ops/abs.h>
#include <ATen/ops/acos.h>
#include <ATen/ops/asin.h>
#include <ATen/ops/atan.h>
#include <ATen/ops/ceil.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/cosh.h>
#include <ATen/ops/erf.h>
#include <ATen/ops/erfc.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/frac.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log10.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/round.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/sinh.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/tan.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/trunc.h>

#include <limits>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

// aclnnForeachRoundOffNumber.md
at::Tensor rounded(const at::Tensor& x, int64_t mode) {
  switch (mode) {
    case 1:
      return at::round(x);  // to even
    case 2:
      return at::floor(x);
    case 3:
      return at::ceil(x);
    case 5:
      return at::trunc(x);
    case 7:
      return at::frac(x);
    default:
      refuse("roundMode is " + std::to_string(mode) + "; the emulator has 1, 2, 3, 5 and 7");
  }
}

}  // namespace

#define FOREACH(Name, types, f)                                \
  ACLNN(aclnnForeach##Name, on_910b(types), Ins x, Outs out) { \
    for (size_t i = 0; i < out.size(); ++i) out[i] = f(x[i]);  \
  }

FOREACH(Abs, floats, at::abs)
FOREACH(Acos, floats, at::acos)
FOREACH(Asin, floats, at::asin)
FOREACH(Atan, floats, at::atan)
FOREACH(Cos, floats, at::cos)
FOREACH(Cosh, floats, at::cosh)
FOREACH(Erf, floats, at::erf)
FOREACH(Erfc, floats, at::erfc)
FOREACH(Exp, floats | i8 | i16 | u8, at::exp)
FOREACH(Expm1, floats | i8 | i16 | u8, at::expm1)
FOREACH(Log, floats, at::log)
FOREACH(Log10, floats, at::log10)
FOREACH(Log1p, floats, at::log1p)
FOREACH(Log2, floats, at::log2)
FOREACH(Neg, floats | i8 | i16 | i32 | u8, at::neg)
FOREACH(Reciprocal, floats, at::reciprocal)
FOREACH(Sigmoid, floats, at::sigmoid)
FOREACH(Sign, floats | i8 | i32 | i64, at::sign)
FOREACH(Sin, floats, at::sin)
FOREACH(Sinh, floats, at::sinh)
FOREACH(Sqrt, floats, at::sqrt)
FOREACH(Tan, floats, at::tan)
FOREACH(Tanh, floats, at::tanh)
FOREACH(Copy, plain | u16 | u32, )

ACLNN(aclnnForeachZeroInplace, on_910b(floats | i16 | i32), Outs x) {
  for (size_t i = 0; i < x.size(); ++i) x[i]->zero_();
}

// The page allows any order; the kernel sums the magnitudes for 1 and takes every other for 2 (the
// 950 class knows infinity besides).
// Follows ops-nn@9.1.0 foreach/foreach_norm/docs/aclnnForeachNorm.md
// Follows ops-nn@9.1.0 foreach/foreach_norm/op_kernel/foreach_norm.cpp
// Follows op-plugin@517f2e7d op_plugin/ops/opapi/ForeachNormKernelOpApi.cpp
ACLNN(aclnnForeachNorm, on_910b(floats), Ins x, Value order, Outs out) {
  const double p = order->toDouble();
  const bool infinite = p == std::numeric_limits<double>::infinity();
  if (p != 1 && p != 2 && !(infinite && soc_class() >= k950)) {
    refuse("the order is " + std::to_string(p) + "; the kernel would take it for 2");
  }
  for (size_t i = 0; i < out.size(); ++i) out[i] = at::linalg_vector_norm(x[i], order);
}

ACLNN(aclnnForeachRoundOffNumberV2, on_910b(floats | i16), Ins x, Value mode, Outs out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = rounded(x[i], mode->toLong());
}

}  // namespace emulator::aclnn
