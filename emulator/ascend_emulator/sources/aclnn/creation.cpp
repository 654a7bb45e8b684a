// Tensors from nothing but numbers.

#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linspace.h>

#include "operator.hpp"

namespace emulator::aclnn {

// Follows ops-math@9.1.0 math/zero_op/docs/aclnnInplaceZero.md
ACLNN(aclnnInplaceZero, numbers | u16, Out self) { self->zero_(); }

// The page lists UINT16 as well, the source does not.
// Follows ops-math@9.1.0 math/ones_like/docs/aclnnInplaceOne.md
// Follows ops-math@9.1.0 math/ones_like/op_api/aclnn_ones.cpp
ACLNN(aclnnInplaceOne, plain, Out self) { self->fill_(1); }

// Follows ops-math@9.1.0 conversion/fill/docs/aclnnInplaceFillScalar.md
// Follows ops-math@9.1.0 conversion/fill/op_api/aclnn_fill_scalar.cpp
ACLNN(aclnnInplaceFillScalar, numbers | unsigneds, Out self, Value value) {
  if (soc_class() == k910A && !takes(numbers, self->scalar_type())) {
    refuse("tensor self is not implemented for " + name_of(self->scalar_type()) + " on " +
           std::string(soc_name()));
  }
  self->fill_(*value);
}

ACLNN(aclnnInplaceFillTensor, numbers, Out self, In value) { self->fill_(value->reshape({})); }

ACLNN(aclnnInplaceFillDiagonal, plain, InOut self, Value value, bool wrap) {
  self->fill_diagonal_(value, wrap);
}

// Follows ops-math@9.1.0 math/range/docs/aclnnArange.md
ACLNN(aclnnArange, floats | f64 | i32 | i64, Value start, Value end, Value step, Out out) {
  out = at::arange(start, end, step, out->options());
}

ACLNN(aclnnLinspace, reals, Value start, Value end, int64_t steps, Out out) {
  out = at::linspace(start, end, steps, out->options());
}

ACLNN(aclnnEye, floats | integers | boolean, int64_t n, int64_t m, Out out) {
  out = at::eye(n, m, out->options());
}

}  // namespace emulator::aclnn
