// Powers, maxima, minima and clamps, element by element.

#include <ATen/ops/atan2.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/clamp_max.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include "operator.hpp"

namespace emulator::aclnn {

ACLNN(aclnnPowTensorTensor, numbers, In self, In exponent, Out out) {
  out = at::pow(self, exponent);
}

ACLNN(aclnnInplacePowTensorTensor, numbers, InOut self, In exponent) {
  self = at::pow(self, exponent);
}

// Follows ops-math@9.1.0 math/pow/docs/aclnnPowTensorScalar&aclnnInplacePowTensorScalar.md
ACLNN(aclnnPowTensorScalar, numbers, In self, Value exponent, Out out) {
  out = at::pow(self, exponent);
}

ACLNN(aclnnInplacePowTensorScalar, numbers, InOut self, Value exponent) {
  self = at::pow(self, exponent);
}

ACLNN(aclnnPowScalarTensor, numbers, Value self, In exponent, Out out) {
  out = at::pow(self, exponent);
}

// Follows ops-math@9.1.0 math/maximum/docs/aclnnMaximum.md
ACLNN(aclnnMaximum, plain, In self, In other, Out out) { out = at::maximum(self, other); }

ACLNN(aclnnMinimum, plain, In self, In other, Out out) { out = at::minimum(self, other); }

ACLNN(aclnnAtan2, plain, In self, In other, Out out) { out = at::atan2(self, other); }

// Follows ops-math@9.1.0 conversion/clip_by_value_v2/docs/aclnnClamp.md
// Follows ops-math@9.1.0 conversion/clip_by_value_v2/op_api/aclnn_clamp.cpp
ACLNN(aclnnClamp, reals, In self, MaybeValue minimum, MaybeValue maximum, Out out) {
  out = at::clamp(self, minimum, maximum);
}

ACLNN(aclnnClampMin, reals, In self, Value minimum, Out out) { out = at::clamp_min(self, minimum); }

ACLNN(aclnnClampMax, reals, In self, Value maximum, Out out) { out = at::clamp_max(self, maximum); }

ACLNN(aclnnInplaceClampMax, reals, InOut self, Value maximum) {
  self = at::clamp_max(self, maximum);
}

ACLNN(aclnnClampTensor, reals, In self, MaybeIn minimum, MaybeIn maximum, Out out) {
  out = at::clamp(self, std::optional<at::Tensor>(minimum), std::optional<at::Tensor>(maximum));
}

ACLNN(aclnnClampMinTensor, reals, In self, In minimum, Out out) {
  out = at::clamp_min(self, *minimum);
}

ACLNN(aclnnClampMaxTensor, reals, In self, In maximum, Out out) {
  out = at::clamp_max(self, *maximum);
}

ACLNN(aclnnInplaceClampMinTensor, reals, InOut self, In minimum) {
  self = at::clamp_min(self, *minimum);
}

ACLNN(aclnnInplaceClampMaxTensor, reals, InOut self, In maximum) {
  self = at::clamp_max(self, *maximum);
}

ACLNN(aclnnHardtanh, reals, In self, Value minimum, Value maximum, Out out) {
  out = at::hardtanh(self, minimum, maximum);
}

ACLNN(aclnnInplaceHardtanh, reals, InOut self, Value minimum, Value maximum) {
  self = at::hardtanh(self, minimum, maximum);
}

ACLNN(aclnnNanToNum, floats | integers | boolean, In self, float nan, float posinf, float neginf,
      Out out) {
  out = at::nan_to_num(self, nan, posinf, neginf);
}

ACLNN(aclnnInplaceNanToNum, floats | integers | boolean, InOut self, float nan, float posinf,
      float neginf) {
  self = at::nan_to_num(self, nan, posinf, neginf);
}

// Follows ops-math@9.1.0 math/select/docs/aclnnSWhere.md
// Follows ops-math@9.1.0 math/select/op_api/aclnn_s_where.cpp
ACLNN(aclnnSWhere, numbers | unsigneds, Mask condition, In self, In other, Out out) {
  out = at::where(condition->to(at::kBool), self, other);
}

}  // namespace emulator::aclnn
