// Reductions. `dims` left out, or empty, means all dimensions.

#include <ATen/ops/all.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/any.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/argmin.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/max.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/min.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/prod.h>
#include <ATen/ops/std.h>
#include <ATen/ops/std_mean.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/var.h>
#include <ATen/ops/var_mean.h>

#include <cmath>
#include <limits>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

at::OptionalIntArrayRef some(const MaybeInts& dims) {
  return (*dims).empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(*dims);
}

// op-plugin passes the largest int for an infinite order, and the smallest for its opposite.
double order_of(const at::Scalar& p) {
  constexpr float kLargest = static_cast<float>(std::numeric_limits<int>::max());
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double order = p.toDouble();
  return std::abs(order) == kLargest ? std::copysign(kInfinity, order) : order;
}

// `dtype` is that of the result, and said twice.
void check_result(aclDataType dtype, const at::Tensor& out) {
  const c10::ScalarType said = torch_dtype(dtype);
  if (said != out.scalar_type()) {
    refuse("dtype is " + name_of(said) + ", and out " + name_of(out.scalar_type()));
  }
}

}  // namespace

// Follows ops-math@9.1.0 math/reduce_sum/docs/aclnnReduceSum.md
// Follows ops-math@9.1.0 math/reduce_sum/op_api/aclnn_reduce_sum.cpp
ACLNN(aclnnReduceSum, numbers, In self, MaybeInts dims, bool keepdim, aclDataType dtype, Out out) {
  check_result(dtype, *out);
  out = at::sum(self, some(dims), keepdim, torch_dtype(dtype));
}

// Follows ops-math@9.1.0 math/reduce_mean/docs/aclnnMean.md
ACLNN(aclnnMean, reals | complexes, In self, MaybeInts dims, bool keepdim, aclDataType dtype,
      Out out) {
  out = at::mean(self, some(dims), keepdim, torch_dtype(dtype));
}

ACLNN(aclnnProd, numbers, In self, aclDataType dtype, Out out) {
  out = at::prod(self, torch_dtype(dtype));
}

ACLNN(aclnnProdDim, numbers, In self, int64_t dim, bool keepdim, aclDataType dtype, Out out) {
  out = at::prod(self, dim, keepdim, torch_dtype(dtype));
}

ACLNN(aclnnAll, plain, In self, MaybeInts dims, bool keepdim, AnyOut out) {
  out = at::all(self, some(dims), keepdim);
}

ACLNN(aclnnAny, plain, In self, MaybeInts dims, bool keepdim, AnyOut out) {
  out = at::any(self, some(dims), keepdim);
}

ACLNN(aclnnAmax, plain, In self, MaybeInts dims, bool keepdim, Out out) {
  out = at::amax(self, *dims, keepdim);
}

ACLNN(aclnnAmin, plain, In self, MaybeInts dims, bool keepdim, Out out) {
  out = at::amin(self, *dims, keepdim);
}

ACLNN(aclnnAminmax, plain, In self, MaybeInts dims, bool keepdim, Out minimum, Out maximum) {
  minimum = at::amin(self, *dims, keepdim);
  maximum = at::amax(self, *dims, keepdim);
}

ACLNN(aclnnMax, plain, In self, Out out) { out = at::max(self); }

ACLNN(aclnnMin, plain, In self, Out out) { out = at::min(self); }

ACLNN(aclnnMaxDim, floats | i32 | i64 | boolean, In self, int64_t dim, bool keepdim, Out out,
      IndexOut indices) {
  const auto results = at::max(self, dim, keepdim);
  out = std::get<0>(results);
  indices = std::get<1>(results);
}

ACLNN(aclnnMinDim, floats | i32 | i64 | boolean, In self, int64_t dim, bool keepdim, Out out,
      IndexOut indices) {
  const auto results = at::min(self, dim, keepdim);
  out = std::get<0>(results);
  indices = std::get<1>(results);
}

ACLNN(aclnnArgMax, reals, In self, int64_t dim, bool keepdim, IndexOut out) {
  out = at::argmax(self, dim, keepdim);
}

ACLNN(aclnnArgMin, reals, In self, int64_t dim, bool keepdim, IndexOut out) {
  out = at::argmin(self, dim, keepdim);
}

ACLNN(aclnnNorm, floats, In self, Value p, MaybeInts dims, bool keepdim, Out out) {
  out = at::norm(self, std::optional<at::Scalar>(order_of(*p)), *dims, keepdim);
}

// Follows ops-nn@9.1.0 norm/lp_norm_v2/docs/aclnnLinalgVectorNorm.md
// Follows ops-nn@9.1.0 norm/lp_norm_v2/op_api/aclnn_linalg_vector_norm.cpp
ACLNN(aclnnLinalgVectorNorm, floats, In self, Value order, MaybeInts dims, bool keepdim,
      aclDataType dtype, Out out) {
  check_result(dtype, *out);
  const c10::ScalarType computed = torch_dtype(dtype);
  if (computed != at::kFloat && computed != self->scalar_type()) {
    refuse("dtype is " + name_of(computed) + ", and must be DT_FLOAT or that of self, which is " +
           name_of(self->scalar_type()));
  }
  out = at::linalg_vector_norm(self, order, some(dims), keepdim, torch_dtype(dtype));
}

ACLNN(aclnnVarCorrection, floats, In self, MaybeInts dims, int64_t correction, bool keepdim,
      Out out) {
  out = at::var(self, some(dims), at::Scalar(correction), keepdim);
}

ACLNN(aclnnVarMean, floats, In self, MaybeInts dims, int64_t correction, bool keepdim, Out var,
      Out mean) {
  const auto results = at::var_mean(self, some(dims), at::Scalar(correction), keepdim);
  var = std::get<0>(results);
  mean = std::get<1>(results);
}

ACLNN(aclnnStd, floats, In self, MaybeInts dims, int64_t correction, bool keepdim, Out out) {
  out = at::std(self, some(dims), at::Scalar(correction), keepdim);
}

ACLNN(aclnnStdMeanCorrection, floats, In self, MaybeInts dims, int64_t correction, bool keepdim,
      Out std, Out mean) {
  const auto results = at::std_mean(self, some(dims), at::Scalar(correction), keepdim);
  std = std::get<0>(results);
  mean = std::get<1>(results);
}

ACLNN(aclnnLogSumExp, on_910b(floats | integers | boolean), In self, MaybeInts dims, bool keepdim,
      Out out) {
  out = at::logsumexp(self, *dims, keepdim);
}

}  // namespace emulator::aclnn
