// Matrix products. The last argument of most is cubeMathType (cube.hpp).

#include <ATen/ops/addbmm.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/addmv.h>
#include <ATen/ops/addr.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>

#include "cube.hpp"
#include "operator.hpp"

namespace emulator::aclnn {
namespace {

// A float32 addend or bias beside half inputs: ATen wants one dtype.
at::Tensor like(const at::Tensor& tensor, const at::Tensor& other) {
  return tensor.to(other.scalar_type());
}

}  // namespace

// Follows ops-nn@9.1.0 matmul/mat_mul_v3/docs/aclnnMm.md
// Follows ops-nn@9.1.0 matmul/common/op_host/op_api/matmul_util.cpp
ACLNN(aclnnMm, floats, In self, In mat2, Out out, int8_t cube_math_type) {
  check_cube(cube_math_type, self->scalar_type());
  const auto cube = [=](const at::Tensor& tensor) { return in_cube(cube_math_type, tensor); };
  out = cube(at::mm(cube(self), cube(mat2)));
}

ACLNN(aclnnMatmul, floats, In self, In mat2, Out out, int8_t) { out = at::matmul(self, mat2); }

ACLNN(aclnnBatchMatMul, floats, In self, In mat2, Out out, int8_t) { out = at::bmm(self, mat2); }

ACLNN(aclnnMv, floats, In self, In vec, Out out, int8_t) { out = at::mv(self, vec); }

ACLNN(aclnnDot, floats | i8 | i32 | u8, In self, In tensor, Out out) {
  out = at::dot(self, tensor);
}

// Follows ops-nn@9.1.0 matmul/mat_mul_v3/docs/aclnnAddmm&aclnnInplaceAddmm.md
// Follows ops-nn@9.1.0 matmul/common/op_host/op_api/matmul_util.cpp
ACLNN(aclnnAddmm, floats, In self, In mat1, In mat2, Value beta, Value alpha, Out out,
      int8_t cube_math_type) {
  check_cube(cube_math_type, mat1->scalar_type());
  const auto cube = [=](const at::Tensor& tensor) { return in_cube(cube_math_type, tensor); };
  out = cube(at::addmm(cube(like(self, mat1)), cube(mat1), cube(mat2), beta, alpha));
}

ACLNN(aclnnInplaceAddmm, floats, InOut self, In mat1, In mat2, Value beta, Value alpha, int8_t) {
  self = at::addmm(like(self, mat1), mat1, mat2, beta, alpha);
}

ACLNN(aclnnAddmv, floats, In self, In mat, In vec, Value alpha, Value beta, Out out, int8_t) {
  out = at::addmv(self, mat, vec, beta, alpha);
}

ACLNN(aclnnBaddbmm, floats, In self, In batch1, In batch2, Value beta, Value alpha, Out out,
      int8_t) {
  out = at::baddbmm(like(self, batch1), batch1, batch2, beta, alpha);
}

ACLNN(aclnnAddbmm, floats, In self, In batch1, In batch2, Value beta, Value alpha, Out out,
      int8_t) {
  out = at::addbmm(like(self, batch1), batch1, batch2, beta, alpha);
}

ACLNN(aclnnAddr, plain, In self, In vec1, In vec2, Value beta, Value alpha, Out out) {
  out = at::addr(self, vec1, vec2, beta, alpha);
}

ACLNN(aclnnInplaceAddr, plain, InOut self, In vec1, In vec2, Value beta, Value alpha) {
  self = at::addr(self, vec1, vec2, beta, alpha);
}

}  // namespace emulator::aclnn
