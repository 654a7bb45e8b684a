// Tensors from nothing but numbers.

#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linspace.h>

#include "operator.hpp"

namespace emulator::aclnn {

ACLNN(aclnnInplaceZero, numbers | u16, Out self) { self->zero_(); }

ACLNN(aclnnInplaceOne, plain, Out self) { self->fill_(1); }

ACLNN(aclnnInplaceFillScalar, numbers, Out self, Value value) { self->fill_(*value); }

ACLNN(aclnnInplaceFillTensor, numbers, Out self, In value) { self->fill_(value->reshape({})); }

ACLNN(aclnnInplaceFillDiagonal, plain, InOut self, Value value, bool wrap) {
  self->fill_diagonal_(value, wrap);
}

ACLNN(aclnnArange, plain, Value start, Value end, Value step, Out out) {
  out = at::arange(start, end, step, out->options());
}

ACLNN(aclnnLinspace, reals, Value start, Value end, int64_t steps, Out out) {
  out = at::linspace(start, end, steps, out->options());
}

ACLNN(aclnnEye, floats | integers | boolean, int64_t n, int64_t m, Out out) {
  out = at::eye(n, m, out->options());
}

}  // namespace emulator::aclnn
