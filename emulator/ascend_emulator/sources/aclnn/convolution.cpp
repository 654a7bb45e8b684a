// Convolution, forward and backward.

#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>

#include "cube.hpp"
#include "operator.hpp"

namespace emulator::aclnn {
namespace {

// The kernel's registers hold no more in two dimensions.
void check_window(const Ints& padding, const Ints& dilation) {
  for (const int64_t value : *padding) {
    if (value < 0 || value > 255) {
      refuse("padding is " + std::to_string(value) + ", and must be from 0 to 255");
    }
  }
  for (const int64_t value : *dilation) {
    if (value < 1 || value > 255) {
      refuse("dilation is " + std::to_string(value) + ", and must be from 1 to 255");
    }
  }
}

}  // namespace

// The page does not name the 910A class; the source has it, and computes in float16 there.
// Follows ops-nn@9.1.0 conv/convolution_forward/docs/aclnnConvolution.md
// Follows ops-nn@9.1.0 conv/convolution_forward/op_host/op_api/aclnn_convolution.cpp
ACLNN(aclnnConvolution, floats, In input, In weight, MaybeIn bias, Ints stride, Ints padding,
      Ints dilation, bool transposed, Ints output_padding, int64_t groups, Out output,
      int8_t cube_math_type) {
  check_cube(cube_math_type, input->scalar_type());
  if (soc_class() < k950) check_window(padding, dilation);
  std::optional<at::Tensor> addend = bias;
  if (addend.has_value()) {
    addend = addend->to(input->scalar_type());  // ATen wants one dtype, aclnn takes a float32 bias
  }
  const auto cube = [=](const at::Tensor& tensor) { return in_cube(cube_math_type, tensor); };
  output = cube(at::convolution(cube(input), cube(weight), addend, stride, padding, dilation,
                                transposed, output_padding, groups));
}

// Follows ops-nn@9.1.0 conv/convolution_backward/docs/aclnnConvolutionBackward.md
// Follows ops-nn@9.1.0 conv/convolution_backward/op_api/convolution_backward_checker.cpp
ACLNN(aclnnConvolutionBackward, floats, In grad_output, In input, In weight, MaybeInts bias_sizes,
      Ints stride, Ints padding, Ints dilation, bool transposed, Ints output_padding,
      int64_t groups, Bools output_mask, int8_t cube_math_type, MaybeOut grad_input,
      MaybeOut grad_weight, MaybeOut grad_bias) {
  check_cube(cube_math_type, input->scalar_type());
  if (soc_class() < k950) check_window(padding, dilation);
  const auto cube = [=](const at::Tensor& tensor) { return in_cube(cube_math_type, tensor); };
  const auto gradients = at::convolution_backward(
      cube(grad_output), cube(input), cube(weight), bias_sizes, stride, padding, dilation,
      transposed, output_padding, groups, output_mask);
  if (output_mask[0]) grad_input = cube(std::get<0>(gradients));
  if (output_mask[1]) grad_weight = cube(std::get<1>(gradients));
  if (output_mask[2]) grad_bias = std::get<2>(gradients);
}

}  // namespace emulator::aclnn
