// Functions of one tensor, element by element, each also in place.

#include <ATen/ops/abs.h>
#include <ATen/ops/acos.h>
#include <ATen/ops/asin.h>
#include <ATen/ops/atan.h>
#include <ATen/ops/bitwise_not.h>
#include <ATen/ops/ceil.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/erf.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/frac.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isneginf.h>
#include <ATen/ops/isposinf.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log10.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/round.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/signbit.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/tan.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/trunc.h>

#include "operator.hpp"

namespace emulator::aclnn {

#define UNARY(Name, types, f)                                     \
  ACLNN(aclnn##Name, types, In self, Out out) { out = f(*self); } \
  ACLNN(aclnnInplace##Name, types, InOut self) { self = f(*self); }

// torch_npu uses none in place.
#define UNARY_ONLY(Name, types, f) \
  ACLNN(aclnn##Name, types, In self, Out out) { out = f(*self); }

UNARY_ONLY(Abs, plain | c64, at::abs)
UNARY_ONLY(Sign, floats | f64 | i16 | i32 | i64 | boolean | complexes, at::sign)
UNARY_ONLY(Signbit, plain | unsigneds, at::signbit)
// Follows ops-math@9.1.0 math/neg/docs/aclnnNeg&aclnnInplaceNeg.md
// Follows ops-math@9.1.0 math/neg/op_api/aclnn_neg.cpp
UNARY_ONLY(Neg, floats | f64 | i8 | i32 | i64 | complexes, at::neg)
UNARY(Sqrt, numbers, at::sqrt)
UNARY(Rsqrt, floats | i8 | i16 | i32 | u8 | boolean, at::rsqrt)
// aclnnReciprocal follows ops-math@9.1.0 math/reciprocal/docs/aclnnReciprocal&aclnnInplaceReciprocal.md
UNARY(Reciprocal, numbers, at::reciprocal)
UNARY(Exp, floats | f64 | i64 | boolean | complexes, at::exp)
UNARY(Exp2, plain, at::exp2)
UNARY(Expm1, floats | i64 | boolean, at::expm1)
UNARY(Log, numbers, at::log)
UNARY(Log2, numbers, at::log2)
UNARY(Log10, numbers, at::log10)
UNARY(Log1p, plain, at::log1p)
UNARY(Sin, numbers, at::sin)
UNARY(Cos, numbers, at::cos)
UNARY(Tan, numbers, at::tan)
UNARY(Asin, plain, at::asin)
UNARY(Acos, plain, at::acos)
UNARY(Atan, plain, at::atan)
UNARY(Tanh, floats | integers | boolean, at::tanh)
UNARY(Sigmoid, numbers, at::sigmoid)
UNARY(Erf, floats | f64 | i64 | boolean, at::erf)
UNARY(Floor, reals | unsigneds, at::floor)
UNARY(Ceil, floats | f64, at::ceil)
UNARY_ONLY(Round, floats | f64 | i32 | i64, at::round)
UNARY_ONLY(Trunc, floats, at::trunc)
UNARY(Frac, floats | integers, at::frac)
UNARY(LogicalNot, plain, at::logical_not)
// Follows ops-math@9.1.0 math/bitwise_not/docs/aclnnBitwiseNot.md
UNARY_ONLY(BitwiseNot, integers | boolean, at::bitwise_not)
// The source takes whole numbers as well, the page does not name them.
// Follows ops-math@9.1.0 math/is_finite/docs/aclnnIsFinite.md
// Follows ops-math@9.1.0 math/is_finite/op_api/aclnn_is_finite.cpp
UNARY_ONLY(IsFinite, plain, at::isfinite)
UNARY_ONLY(IsPosInf, on_910b(floats | integers | boolean), at::isposinf)
UNARY_ONLY(IsNegInf, on_910b(floats | integers | boolean), at::isneginf)

ACLNN(aclnnRoundDecimals, floats | f64 | i32 | i64, In self, int64_t decimals, Out out) {
  out = at::round(*self, decimals);
}

ACLNN(aclnnInplaceRoundDecimals, floats | f64 | i32 | i64, InOut self, int64_t decimals) {
  self = at::round(*self, decimals);
}

}  // namespace emulator::aclnn
