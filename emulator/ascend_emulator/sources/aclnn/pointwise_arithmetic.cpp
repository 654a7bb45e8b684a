// Sums, products and quotients, element by element: of two tensors (Add), a tensor and a scalar
// (Adds), in place (InplaceAdd).

#include <ATen/ops/add.h>
#include <ATen/ops/addcdiv.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/div.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/fmod.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sub.h>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

// aclnnDivMod's mode (aclnnDivMod.md): 0 true division, 1 towards zero, 2 downwards.
std::optional<c10::string_view> rounding(int mode) {
  switch (mode) {
    case 0:
      return std::nullopt;
    case 1:
      return "trunc";
    case 2:
      return "floor";
    default:
      refuse("mode is " + std::to_string(mode) + ", and must be 0, 1 or 2");
  }
}

}  // namespace

// f(self, other): aclnnName and aclnnInplaceName.
#define TWO_TENSORS(Name, types, f)                                                 \
  ACLNN(aclnn##Name, types, In self, In other, Out out) { out = f(*self, *other); } \
  ACLNN(aclnnInplace##Name, types, InOut self, In other) { self = f(*self, *other); }
#define TENSOR_AND_SCALAR(Name, types, f)                                              \
  ACLNN(aclnn##Name, types, In self, Value other, Out out) { out = f(*self, *other); } \
  ACLNN(aclnnInplace##Name, types, InOut self, Value other) { self = f(*self, *other); }

// f(self, other, alpha)
#define TWO_TENSORS_SCALED(Name, types, f)                              \
  ACLNN(aclnn##Name, types, In self, In other, Value alpha, Out out) {  \
    out = f(*self, *other, *alpha);                                     \
  }                                                                     \
  ACLNN(aclnnInplace##Name, types, InOut self, In other, Value alpha) { \
    self = f(*self, *other, *alpha);                                    \
  }
#define TENSOR_AND_SCALAR_SCALED(Name, types, f)                           \
  ACLNN(aclnn##Name, types, In self, Value other, Value alpha, Out out) {  \
    out = f(*self, *other, *alpha);                                        \
  }                                                                        \
  ACLNN(aclnnInplace##Name, types, InOut self, Value other, Value alpha) { \
    self = f(*self, *other, *alpha);                                       \
  }

// Follows ops-math@9.1.0 math/add/docs/aclnnAdd&aclnnInplaceAdd.md
TWO_TENSORS_SCALED(Add, numbers, at::add)
// Follows ops-math@9.1.0 math/add/docs/aclnnAdds.md
TENSOR_AND_SCALAR_SCALED(Adds, numbers, at::add)
TWO_TENSORS_SCALED(Sub, numbers, at::sub)
// Follows ops-math@9.1.0 math/sub/docs/aclnnSubs&aclnnInplaceSubs.md
TENSOR_AND_SCALAR_SCALED(Subs, numbers, at::sub)

ACLNN(aclnnAddV3, floats | i8 | i32, Value self, In other, Value alpha, Out out) {
  out = at::add(at::scalar_tensor(self, other->options()), other, alpha);
}

ACLNN(aclnnRsub, reals | complexes, In self, In other, Value alpha, Out out) {
  out = at::rsub(self, other, alpha);
}

// Follows ops-math@9.1.0 math/sub/docs/aclnnRsubs.md
ACLNN(aclnnRsubs, reals | complexes, In self, Value other, Value alpha, Out out) {
  out = at::rsub(self, other, alpha);
}

// Follows ops-math@9.1.0 math/mul/docs/aclnnMul&aclnnInplaceMul.md
TWO_TENSORS(Mul, numbers, at::mul)
// Follows ops-math@9.1.0 math/muls/docs/aclnnMuls&aclnnInplaceMuls.md
// Follows ops-math@9.1.0 math/mul/op_api/aclnn_mul.cpp
TENSOR_AND_SCALAR(Muls, numbers, at::mul)
// Follows ops-math@9.1.0 math/div/docs/aclnnDiv&aclnnInplaceDiv.md
TWO_TENSORS(Div, numbers, at::div)
// Follows ops-math@9.1.0 math/div/docs/aclnnDivs&aclnnInplaceDivs.md
TENSOR_AND_SCALAR(Divs, numbers, at::div)
TWO_TENSORS(FloorDivide, plain, at::floor_divide)
TENSOR_AND_SCALAR(FloorDivides, plain, at::floor_divide)
TWO_TENSORS(RemainderTensorTensor, floats | f64 | i32 | i64, at::remainder)
TENSOR_AND_SCALAR(RemainderTensorScalar, floats | f64 | i32 | i64, at::remainder)
TWO_TENSORS(FmodTensor, reals, at::fmod)
TENSOR_AND_SCALAR(FmodScalar, reals, at::fmod)

ACLNN(aclnnRemainderScalarTensor, floats | f64 | i32 | i64, Value self, In other, Out out) {
  out = at::remainder(self, other);
}

ACLNN(aclnnDivMod, numbers, In self, In other, int mode, Out out) {
  out = at::div(self, other, rounding(mode));
}

ACLNN(aclnnInplaceDivMod, numbers, InOut self, In other, int mode) {
  self = at::div(self, other, rounding(mode));
}

ACLNN(aclnnDivMods, numbers, In self, Value other, int mode, Out out) {
  out = at::div(self, other, rounding(mode));
}

ACLNN(aclnnInplaceDivMods, numbers, InOut self, Value other, int mode) {
  self = at::div(self, other, rounding(mode));
}

ACLNN(aclnnAddcmul, floats | f64 | i8 | i32 | i64 | u8, In self, In tensor1, In tensor2,
      Value value, Out out) {
  out = at::addcmul(self, tensor1, tensor2, value);
}

ACLNN(aclnnInplaceAddcmul, floats | f64 | i8 | i32 | i64 | u8, InOut self, In tensor1, In tensor2,
      Value value) {
  self = at::addcmul(self, tensor1, tensor2, value);
}

ACLNN(aclnnAddcdiv, floats | f64 | i64, In self, In tensor1, In tensor2, Value value, Out out) {
  out = at::addcdiv(self, tensor1, tensor2, value);
}

ACLNN(aclnnInplaceAddcdiv, floats | f64 | i64, InOut self, In tensor1, In tensor2, Value value) {
  self = at::addcdiv(self, tensor1, tensor2, value);
}

ACLNN(aclnnLerp, floats, In self, In end, In weight, Out out) { out = at::lerp(self, end, weight); }

ACLNN(aclnnInplaceLerp, floats, InOut self, In end, In weight) {
  self = at::lerp(self, end, weight);
}

// The source takes a float64 result, of inputs that are not.
// Follows ops-math@9.1.0 math/lerp/docs/aclnnLerps&aclnnInplaceLerps.md
// Follows ops-math@9.1.0 math/lerp/op_api/aclnn_lerp_scalar.cpp
ACLNN(aclnnLerps, floats, In self, In end, Value weight, Out out) {
  out = at::lerp(self, end, weight);
}

// Follows ops-math@9.1.0 math/lerp/docs/aclnnLerps&aclnnInplaceLerps.md
// Follows ops-math@9.1.0 math/lerp/op_api/aclnn_lerp_scalar.cpp
ACLNN(aclnnInplaceLerps, floats, InOut self, In end, Value weight) {
  self = at::lerp(self, end, weight);
}

}  // namespace emulator::aclnn
