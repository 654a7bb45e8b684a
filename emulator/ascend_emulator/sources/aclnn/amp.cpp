// Loss scaling.

#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mul.h>

#include <limits>

#include "operator.hpp"

namespace emulator::aclnn {

// Multiplies each gradient by inv_scale in place, and sets found_inf to 1 where one is not finite.
// Follows ops-nn@9.1.0 foreach/foreach_non_finite_check_and_unscale/op_host/foreach_non_finite_check_and_unscale_def.cpp
// Follows op-plugin@517f2e7d op_plugin/ops/opapi/AmpForeachNonFiniteCheckAndUnscaleKernelNpuOpApi.cpp
ACLNN(aclnnForeachNonFiniteCheckAndUnscale, on_910b(floats), InOuts scaled_grads, InOut found_inf,
      In inv_scale) {
  if (found_inf->scalar_type() != at::kFloat || inv_scale->scalar_type() != at::kFloat) {
    refuse("found_inf is " + name_of(found_inf->scalar_type()) + " and inv_scale " +
           name_of(inv_scale->scalar_type()) + ", and both must be DT_FLOAT");
  }
  for (size_t i = 0; i < scaled_grads.size(); ++i) {
    const at::Tensor& grad = *scaled_grads[i];
    if (!at::isfinite(grad).all().item<bool>()) {
      found_inf->fill_(1);
    }
    scaled_grads[i] = at::mul(grad, inv_scale->reshape({}));
  }
}

// ATen takes a float32 scale only; the chip a half one too.
// Follows ops-math@9.1.0 math/amp_update_scale/docs/aclnnAmpUpdateScale.md
ACLNN(aclnnAmpUpdateScale, on_910b(floats), In current_scale, AnyIn growth_tracker, In found_inf,
      double growth_factor, double backoff_factor, int64_t growth_interval, Out updated_scale,
      AnyOut updated_growth_tracker) {
  const c10::ScalarType dtype = current_scale->scalar_type();
  if (found_inf->scalar_type() != dtype || updated_scale->scalar_type() != dtype) {
    refuse("foundInf and updatedScale must be " + name_of(dtype) + " as currentScale is");
  }
  if (growth_tracker->scalar_type() != at::kInt ||
      updated_growth_tracker->scalar_type() != at::kInt) {
    refuse("growthTracker and updatedGrowthTracker must be DT_INT32");
  }
  if (growth_interval < 1 || growth_interval > std::numeric_limits<int32_t>::max()) {
    refuse("growthInterval is " + std::to_string(growth_interval) +
           ", and must be from 1 to 2147483647");
  }
  const auto [scale, tracker] =
      at::_amp_update_scale(current_scale->to(at::kFloat), growth_tracker,
                            found_inf->to(at::kFloat), growth_factor, backoff_factor,
                            growth_interval);
  updated_scale = scale;
  updated_growth_tracker = tracker;
}

}  // namespace emulator::aclnn
