#include "cube.hpp"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/nan_to_num.h>

#include <string>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

constexpr int8_t kAllowLess = 1, kUseFp16 = 2, kLast = 4;

}  // namespace

// CheckCubeMathType in ops-nn@9.1.0 matmul/common/op_host/op_api/cube_util.cpp; that bfloat16 does
// not take USE_FP16 is in the pages, and only a warning there.
void check_cube(int8_t cube_math_type, c10::ScalarType input) {
  if (cube_math_type < 0 || cube_math_type > kLast) {
    refuse("cubeMathType is " + std::to_string(cube_math_type) + ", and must be 0, 1, 2, 3 or 4");
  }
  if (cube_math_type == kUseFp16 && input == at::kBFloat16) {
    refuse("cubeMathType 2 (USE_FP16) does not take a bfloat16 input");
  }
  if (soc_class() == k910A && input == at::kFloat && cube_math_type != kAllowLess &&
      cube_math_type != kUseFp16) {
    refuse("cubeMathType " + std::to_string(cube_math_type) + " does not take a float32 input on " +
           std::string(soc_name()) + ", which computes it in float16; 1 and 2 do");
  }
}

at::Tensor in_cube(int8_t cube_math_type, const at::Tensor& tensor) {
  if (tensor.scalar_type() != at::kFloat ||
      (soc_class() != k910A && cube_math_type != kUseFp16)) {
    return tensor;
  }
  constexpr double kLargest = 65504.0;
  at::Tensor half = tensor.to(at::kHalf);
  if (saturates() && !at::isfinite(half).all().item<bool>()) {
    half = at::nan_to_num(half, 0.0, kLargest, -kLargest);
    if (at::isfinite(tensor).all().item<bool>()) flag_overflow();
  }
  return half.to(at::kFloat);
}

}  // namespace emulator::aclnn
