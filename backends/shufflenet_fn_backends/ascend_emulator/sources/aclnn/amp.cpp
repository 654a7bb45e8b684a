// Loss scaling.

#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mul.h>

#include "operator.hpp"

namespace emulator::aclnn {

// Multiplies each gradient by inv_scale in place, and sets found_inf to 1 where one is not finite.
ACLNN(aclnnForeachNonFiniteCheckAndUnscale, on_910b(floats), InOuts scaled_grads, InOut found_inf,
      In inv_scale) {
  for (size_t i = 0; i < scaled_grads.size(); ++i) {
    const at::Tensor& grad = *scaled_grads[i];
    if (!at::isfinite(grad).all().item<bool>()) {
      found_inf->fill_(1);
    }
    scaled_grads[i] = at::mul(grad, inv_scale->reshape({}));
  }
}

ACLNN(aclnnAmpUpdateScale, f32 | i32, In current_scale, In growth_tracker, In found_inf,
      double growth_factor, double backoff_factor, int64_t growth_interval, Out updated_scale,
      Out updated_growth_tracker) {
  const auto [scale, tracker] = at::_amp_update_scale(
      current_scale, growth_tracker, found_inf, growth_factor, backoff_factor, growth_interval);
  updated_scale = scale;
  updated_growth_tracker = tracker;
}

}  // namespace emulator::aclnn
