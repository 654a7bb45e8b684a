// Pooling in two dimensions.

#include <ATen/ops/_adaptive_avg_pool2d.h>
#include <ATen/ops/_adaptive_avg_pool2d_backward.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/avg_pool2d_backward.h>
#include <ATen/ops/max_pool2d_with_indices.h>
#include <ATen/ops/max_pool2d_with_indices_backward.h>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

std::optional<int64_t> divisor_of(int64_t override) {
  return override == 0 ? std::nullopt : std::optional<int64_t>(override);
}

}  // namespace

ACLNN(aclnnMaxPool2dWithIndices, floats, In self, Ints kernel_size, Ints stride, Ints padding,
      Ints dilation, bool ceil_mode, Out output, IndexOut indices) {
  const auto results =
      at::max_pool2d_with_indices(self, kernel_size, stride, padding, dilation, ceil_mode);
  output = std::get<0>(results);
  indices = std::get<1>(results);
}

ACLNN(aclnnMaxPool2dWithIndicesBackward, floats, In grad_output, In self, Index indices,
      Ints kernel_size, Ints stride, Ints padding, Ints dilation, bool ceil_mode, Out grad_input) {
  grad_input = at::max_pool2d_with_indices_backward(grad_output, self, kernel_size, stride, padding,
                                                    dilation, ceil_mode, indices->to(at::kLong));
}

// The mask (int8, an eighth of a byte for each place in each window) only goes from here to the
// backward pass, which gets the input as well. The emulator finds the places again from that, and
// leaves the mask zero.
ACLNN(aclnnMaxPool2dWithMask, floats, In self, Ints kernel_size, Ints stride, Ints padding,
      Ints dilation, bool ceil_mode, Out output, AnyOut mask) {
  output = std::get<0>(
      at::max_pool2d_with_indices(self, kernel_size, stride, padding, dilation, ceil_mode));
  mask->zero_();
}

ACLNN(aclnnMaxPool2dWithMaskBackward, floats, In grad_output, In self, AnyIn, Ints kernel_size,
      Ints stride, Ints padding, Ints dilation, bool ceil_mode, Out grad_input) {
  const at::Tensor indices = std::get<1>(
      at::max_pool2d_with_indices(self, kernel_size, stride, padding, dilation, ceil_mode));
  grad_input = at::max_pool2d_with_indices_backward(grad_output, self, kernel_size, stride, padding,
                                                    dilation, ceil_mode, indices);
}

ACLNN(aclnnAvgPool2d, floats, In self, Ints kernel_size, Ints stride, Ints padding, bool ceil_mode,
      bool count_include_pad, int64_t divisor_override, int8_t, Out output) {
  output = at::avg_pool2d(self, kernel_size, stride, padding, ceil_mode, count_include_pad,
                          divisor_of(divisor_override));
}

ACLNN(aclnnAvgPool2dBackward, floats, In grad_output, In self, Ints kernel_size, Ints stride,
      Ints padding, bool ceil_mode, bool count_include_pad, int64_t divisor_override, int8_t,
      Out grad_input) {
  grad_input = at::avg_pool2d_backward(grad_output, self, kernel_size, stride, padding, ceil_mode,
                                       count_include_pad, divisor_of(divisor_override));
}

ACLNN(aclnnAdaptiveAvgPool2d, floats, In self, Ints output_size, Out output) {
  output = at::_adaptive_avg_pool2d(self, output_size);
}

ACLNN(aclnnAdaptiveAvgPool2dBackward, floats, In grad_output, In self, Out grad_input) {
  grad_input = at::_adaptive_avg_pool2d_backward(grad_output, self);
}

}  // namespace emulator::aclnn
