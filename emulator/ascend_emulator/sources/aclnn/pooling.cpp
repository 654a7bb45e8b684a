// Pooling in two dimensions.

#include <ATen/ops/_adaptive_avg_pool2d.h>
#include <ATen/ops/_adaptive_avg_pool2d_backward.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/avg_pool2d_backward.h>
#include <ATen/ops/max_pool2d_with_indices.h>
#include <ATen/ops/max_pool2d_with_indices_backward.h>

#include <sstream>

#include "cube.hpp"
#include "operator.hpp"

namespace emulator::aclnn {
namespace {

// What both operators with a mask refuse; the mask is int8, 32 places for each 16 outputs.
void check_masked(const at::Tensor& self, const Ints& kernel, const Ints& dilation,
                  const at::Tensor& pooled, const at::Tensor& mask) {
  if (soc_class() >= k950) {
    refuse(std::string(soc_name()) + " has no such operator; it has aclnnMaxPool2dWithIndices");
  }
  for (const int64_t value : *dilation) {
    if (value != 1) refuse("dilation is " + std::to_string(value) + ", and must be 1");
  }
  const int64_t places = (*kernel).front() * (*kernel).back();
  const int64_t outputs = pooled.size(-1) * pooled.size(-2);
  std::vector<int64_t> shape = self.sizes().vec();
  shape[shape.size() - 2] = places;
  shape[shape.size() - 1] = ((outputs + 15) / 16 + 1) * 32;
  if (mask.scalar_type() != at::kChar || mask.sizes() != at::IntArrayRef(shape)) {
    std::ostringstream why;
    why << "the mask is " << name_of(mask.scalar_type()) << " of shape " << mask.sizes()
        << ", and must be DT_INT8 of shape " << at::IntArrayRef(shape);
    refuse(why.str());
  }
}

// The 910A class pools float32 in float16.
at::Tensor pooled_as(const at::Tensor& tensor) {
  return in_cube(/*allow less*/ 1, tensor);
}

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
// Follows ops-nn@9.1.0 pooling/max_pool3d_with_argmax_v2/docs/aclnnMaxPool2dWithMask.md
// Follows ops-nn@9.1.0 pooling/max_pool3d_with_argmax_v2/op_api/aclnn_max_pool2d_with_indices.cpp
ACLNN(aclnnMaxPool2dWithMask, floats, In self, Ints kernel_size, Ints stride, Ints padding,
      Ints dilation, bool ceil_mode, Out output, AnyOut mask) {
  check_masked(self, kernel_size, dilation, *output, *mask);
  output = std::get<0>(at::max_pool2d_with_indices(pooled_as(self), kernel_size, stride, padding,
                                                   dilation, ceil_mode));
  mask->zero_();
}

// Follows ops-nn@9.1.0 pooling/max_pool3d_grad_with_argmax/docs/aclnnMaxPool2dWithMaskBackward.md
ACLNN(aclnnMaxPool2dWithMaskBackward, floats, In grad_output, In self, AnyIn mask, Ints kernel_size,
      Ints stride, Ints padding, Ints dilation, bool ceil_mode, Out grad_input) {
  check_masked(self, kernel_size, dilation, grad_output, mask);
  const at::Tensor input = pooled_as(self);
  const at::Tensor indices = std::get<1>(
      at::max_pool2d_with_indices(input, kernel_size, stride, padding, dilation, ceil_mode));
  grad_input = pooled_as(at::max_pool2d_with_indices_backward(
      pooled_as(grad_output), input, kernel_size, stride, padding, dilation, ceil_mode, indices));
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
