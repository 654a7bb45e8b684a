// Comparisons, logic and bits, element by element.

#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_or.h>
#include <ATen/ops/bitwise_xor.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/isclose.h>
#include <ATen/ops/le.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_or.h>
#include <ATen/ops/logical_xor.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/scalar_tensor.h>

#include "operator.hpp"

namespace emulator::aclnn {

// A tensor against a tensor and against a scalar; each also in place, where the result gets the
// dtype of the input.
#define NEW_PAIR(Name, types, f)                                                               \
  ACLNN(aclnn##Name##Tensor, types, In self, In other, AnyOut out) { out = f(*self, *other); } \
  ACLNN(aclnn##Name##Scalar, types, In self, Value other, AnyOut out) { out = f(*self, *other); }
#define PAIR(Name, types, f)                                                                  \
  NEW_PAIR(Name, types, f)                                                                    \
  ACLNN(aclnnInplace##Name##Tensor, types, InOut self, In other) { self = f(*self, *other); } \
  ACLNN(aclnnInplace##Name##Scalar, types, InOut self, Value other) { self = f(*self, *other); }

// Follows ops-math@9.1.0 math/equal/docs/aclnnEqTensor&aclnnInplaceEqTensor.md
// Follows ops-math@9.1.0 math/equal/docs/aclnnEqScalar&aclnnInplaceEqScalar.md
PAIR(Eq, numbers, at::eq)
// aclnnNeScalar follows ops-math@9.1.0 math/not_equal/docs/aclnnNeScalar&aclnnInplaceNeScalar.md
PAIR(Ne, numbers, at::ne)
PAIR(Lt, plain | unsigneds, at::lt)
PAIR(Le, plain | u16, at::le)
// aclnnGtTensor follows ops-math@9.1.0 math/greater/docs/aclnnGtTensor&aclnnInplaceGtTensor.md
PAIR(Gt, plain | unsigneds, at::gt)
// aclnnGeScalar follows ops-math@9.1.0 math/greater_equal/docs/aclnnGeScalar&aclnnInplaceGeScalar.md
PAIR(Ge, plain | unsigneds, at::ge)
// aclnnBitwiseAndTensor follows ops-math@9.1.0 math/bitwise_and/docs/aclnnBitwiseAndTensor.md
PAIR(BitwiseAnd, integers | boolean | u16, at::bitwise_and)
NEW_PAIR(BitwiseOr, integers | boolean | u16, at::bitwise_or)
PAIR(BitwiseXor, integers | boolean, at::bitwise_xor)

#define LOGIC(Name, f)                                                              \
  ACLNN(aclnn##Name, numbers, In self, In other, Out out) { out = f(self, other); } \
  ACLNN(aclnnInplace##Name, numbers, InOut self, In other) { self = f(self, other); }

LOGIC(LogicalAnd, at::logical_and)
LOGIC(LogicalOr, at::logical_or)

ACLNN(aclnnLogicalXor, numbers, In self, In other, Out out) { out = at::logical_xor(self, other); }

ACLNN(aclnnEqual, plain | unsigneds, In self, In other, AnyOut out) {
  out = at::scalar_tensor(at::equal(self, other), out->options()).expand(out->sizes());
}

ACLNN(aclnnIsClose, plain, In self, In other, double rtol, double atol, bool equal_nan,
      AnyOut out) {
  out = at::isclose(self, other, rtol, atol, equal_nan);
}

// What op-plugin asks for in scalar >= tensor, with the two exchanged; so less means less or equal.
ACLNN(aclnnLessScalar, plain | unsigneds, In self, Value other, AnyOut out) {
  out = at::le(*self, *other);
}

}  // namespace emulator::aclnn
