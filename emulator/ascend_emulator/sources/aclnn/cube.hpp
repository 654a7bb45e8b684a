// How the matrix unit treats float32, the same for convolutions and matrix products.

#ifndef ASCEND_EMULATOR_ACLNN_CUBE_HPP_
#define ASCEND_EMULATOR_ACLNN_CUBE_HPP_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace emulator::aclnn {

// cubeMathType: 0 keep, 1 allow less, 2 float16, 3 HF32, 4 exact sums in float32. Refuses a value
// that the chip does not take with this dtype of input.
void check_cube(int8_t cube_math_type, c10::ScalarType input);

// What the unit computes with: `tensor` itself, or, where it computes float32 in float16 (on the
// 910A class, and elsewhere where the caller asks for it), its values rounded to float16. HF32 is
// not emulated: there float32 stays as it is.
at::Tensor in_cube(int8_t cube_math_type, const at::Tensor& tensor);

}  // namespace emulator::aclnn

#endif  // ASCEND_EMULATOR_ACLNN_CUBE_HPP_
