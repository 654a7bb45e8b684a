// Activations and their gradients.

#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/_log_softmax_backward_data.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/hardtanh_backward.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/leaky_relu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold.h>
#include <ATen/ops/threshold_backward.h>

#include "operator.hpp"

namespace emulator::aclnn {

// Follows ops-nn@9.1.0 activation/relu/docs/aclnnRelu&aclnnInplaceRelu.md
ACLNN(aclnnRelu, floats | i8 | i32 | i64, In self, Out out) { out = at::relu(self); }

// Follows ops-nn@9.1.0 activation/relu/docs/aclnnRelu&aclnnInplaceRelu.md
ACLNN(aclnnInplaceRelu, floats | i8 | i32 | i64, InOut self) { self = at::relu(self); }

ACLNN(aclnnThreshold, floats | integers, In self, Value threshold, Value value, Out out) {
  out = at::threshold(self, threshold, value);
}

ACLNN(aclnnInplaceThreshold, floats | integers, InOut self, Value threshold, Value value) {
  self = at::threshold(self, threshold, value);
}

// int64 only from the 950 class on, and there no threshold but 0.
// Follows ops-nn@9.1.0 activation/threshold_grad_v2_d/docs/aclnnThresholdBackward.md
// Follows ops-nn@9.1.0 activation/threshold_grad_v2_d/op_host/op_api/aclnn_threshold_backward.cpp
ACLNN(aclnnThresholdBackward, floats | i8 | i32 | i64 | u8, In grad_output, In self,
      Value threshold, Out out) {
  if (soc_class() < k950 && self->scalar_type() == at::kLong) {
    refuse("tensor self is not implemented for DT_INT64 on " + std::string(soc_name()));
  }
  if (soc_class() >= k950 && threshold->toDouble() != 0.0) {
    refuse("threshold is " + std::to_string(threshold->toDouble()) + ", and must be 0 on " +
           std::string(soc_name()));
  }
  out = at::threshold_backward(grad_output, self, threshold);
}

ACLNN(aclnnLeakyRelu, floats | f64, In self, Value slope, Out out) {
  out = at::leaky_relu(self, slope);
}

ACLNN(aclnnInplaceLeakyRelu, floats | f64, InOut self, Value slope) {
  self = at::leaky_relu(self, slope);
}

ACLNN(aclnnLeakyReluBackward, floats | f64, In grad_output, In self, Value slope,
      bool self_is_result, Out out) {
  out = at::leaky_relu_backward(grad_output, self, slope, self_is_result);
}

ACLNN(aclnnHardtanhBackward, floats, In grad_output, In self, Value minimum, Value maximum,
      Out out) {
  out = at::hardtanh_backward(grad_output, self, minimum, maximum);
}

ACLNN(aclnnSigmoidBackward, floats | f64 | complexes, In grad_output, In output, Out grad_input) {
  grad_input = at::sigmoid_backward(grad_output, output);
}

ACLNN(aclnnTanhBackward, floats | f64, In grad_output, In output, Out grad_input) {
  grad_input = at::tanh_backward(grad_output, output);
}

ACLNN(aclnnGelu, floats, In self, Out out) { out = at::gelu(self); }

ACLNN(aclnnGeluBackward, floats, In grad_output, In self, Out grad_input) {
  grad_input = at::gelu_backward(grad_output, self);
}

ACLNN(aclnnSilu, floats, In self, Out out) { out = at::silu(self); }

ACLNN(aclnnSiluBackward, floats, In grad_output, In self, Out grad_input) {
  grad_input = at::silu_backward(grad_output, self);
}

// The output may be float32 where the input is half.
ACLNN(aclnnSoftmax, floats | f64, In self, int64_t dim, Out out) {
  out = at::_softmax(self->to(out->scalar_type()), dim, false);
}

ACLNN(aclnnSoftmaxBackward, floats, In grad_output, In output, int64_t dim, Out grad_input) {
  grad_input = at::_softmax_backward_data(grad_output, output, dim, output->scalar_type());
}

// Follows ops-nn@9.1.0 activation/log_softmax_v2/docs/aclnnLogSoftmax.md
ACLNN(aclnnLogSoftmax, floats | f64, In self, int64_t dim, Out out) {
  out = at::_log_softmax(self->to(out->scalar_type()), dim, false);
}

// Follows ops-nn@9.1.0 activation/log_softmax_grad/docs/aclnnLogSoftmaxBackward.md
ACLNN(aclnnLogSoftmaxBackward, floats, In grad_output, In output, int64_t dim, Out grad_input) {
  grad_input = at::_log_softmax_backward_data(grad_output, output, dim, output->scalar_type());
}

}  // namespace emulator::aclnn
