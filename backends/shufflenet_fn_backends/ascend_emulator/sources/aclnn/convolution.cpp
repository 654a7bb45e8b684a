// Convolution, forward and backward.

#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

// How the matrix unit treats float32: 0 keep, 1 allow less, 2 float16, 3 HF32
// (aclnnConvolution.md). The emulator keeps what it is given; it refuses what the page says is not
// there.
void check_cube(int8_t cube_math_type, const at::Tensor& input) {
  constexpr int8_t kUseFp16 = 2;
  if (cube_math_type < 0 || cube_math_type > 3) {
    refuse("cubeMathType is " + std::to_string(cube_math_type) + ", and must be 0, 1, 2 or 3");
  }
  if (cube_math_type == kUseFp16 && input.scalar_type() == at::kBFloat16) {
    refuse("cubeMathType 2 (USE_FP16) does not take a bfloat16 input");
  }
}

}  // namespace

ACLNN(aclnnConvolution, floats, In input, In weight, MaybeIn bias, Ints stride, Ints padding,
      Ints dilation, bool transposed, Ints output_padding, int64_t groups, Out output,
      int8_t cube_math_type) {
  check_cube(cube_math_type, input);
  std::optional<at::Tensor> addend = bias;
  if (addend.has_value()) {
    addend = addend->to(input->scalar_type());  // ATen wants one dtype, aclnn takes a float32 bias
  }
  output = at::convolution(input, weight, addend, stride, padding, dilation, transposed,
                           output_padding, groups);
}

ACLNN(aclnnConvolutionBackward, floats, In grad_output, In input, In weight, MaybeInts bias_sizes,
      Ints stride, Ints padding, Ints dilation, bool transposed, Ints output_padding,
      int64_t groups, Bools output_mask, int8_t cube_math_type, MaybeOut grad_input,
      MaybeOut grad_weight, MaybeOut grad_bias) {
  check_cube(cube_math_type, input);
  const auto gradients =
      at::convolution_backward(grad_output, input, weight, bias_sizes, stride, padding, dilation,
                               transposed, output_padding, groups, output_mask);
  if (output_mask[0]) grad_input = std::get<0>(gradients);
  if (output_mask[1]) grad_weight = std::get<1>(gradients);
  if (output_mask[2]) grad_bias = std::get<2>(gradients);
}

}  // namespace emulator::aclnn
