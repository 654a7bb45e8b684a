// Batch norm and layer norm.

#include <ATen/ops/add.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/var.h>

#include <vector>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

// Parameters and statistics in float32: beside a half input ATen wants them so, and torch_npu may
// pass either. A float32 tensor stays itself, so that what is written to it is kept.
MaybeTensor widened(const MaybeTensor& tensor) {
  return tensor.has_value() ? MaybeTensor(tensor->to(at::kFloat)) : std::nullopt;
}

void keep(const MaybeInOut& statistic, const MaybeTensor& updated) {
  if (statistic && !statistic->is_alias_of(*updated)) {
    statistic = *updated;
  }
}

// What the third result holds, by generation of chip: the page names the variance for all before 950.
bool saves_variance() { return soc_class() != k950; }

at::Tensor biased_variance(const at::Tensor& input) {
  std::vector<int64_t> dims = {0};
  for (int64_t dim = 2; dim < input.dim(); ++dim) dims.push_back(dim);
  return at::var(input.to(at::kFloat), dims, /*correction=*/0);
}

}  // namespace

// Follows ops-nn@9.1.0 norm/batch_norm_v3/docs/aclnnBatchNorm.md
// Follows ops-nn@9.1.0 norm/batch_norm_v3/op_host/op_api/aclnn_batch_norm.cpp
// Follows ops-nn@9.1.0 norm/batch_norm_v3/op_kernel/batch_norm_v3_welford.h
// save_invstd is the biased variance, and 1/sqrt(var + eps) only on the 950 class. Running
// statistics may be absent; those that are given are updated with the unbiased variance. In
// evaluation neither saved statistic is written: the chip's kernel for inference computes none, and
// the backward pass reads the running ones.
ACLNN(aclnnBatchNorm, floats, In input, MaybeIn weight, MaybeIn bias, MaybeInOut running_mean,
      MaybeInOut running_var, bool training, double momentum, double eps, Out output,
      MaybeOut save_mean, MaybeOut save_invstd) {
  if (training && (!save_mean || !save_invstd)) {
    refuse("saveMean and saveInvstd must not be null in training");
  }
  const MaybeTensor mean = widened(running_mean);
  const MaybeTensor var = widened(running_var);
  const auto results = at::native_batch_norm(input, widened(weight), widened(bias), mean, var,
                                             training, momentum, eps);
  output = std::get<0>(results);
  if (training) {
    keep(running_mean, mean);
    keep(running_var, var);
    save_mean = std::get<1>(results);
    save_invstd = saves_variance() ? biased_variance(input) : std::get<2>(results);
  }
}

// Follows ops-nn@9.1.0 norm/batch_norm_grad_v3/docs/aclnnBatchNormBackward.md
// Follows ops-nn@9.1.0 norm/batch_norm_grad_v3/op_host/op_api/aclnn_batch_norm_backward.cpp
// save_invstd is what the forward pass of the same chip gave.
ACLNN(aclnnBatchNormBackward, floats, In grad_output, In input, MaybeIn weight,
      MaybeIn running_mean, MaybeIn running_var, MaybeIn save_mean, MaybeIn save_invstd,
      bool training, double eps, Bools output_mask, MaybeOut grad_input, MaybeOut grad_weight,
      MaybeOut grad_bias) {
  MaybeTensor invstd = widened(save_invstd);
  if (training && invstd.has_value() && saves_variance()) {
    invstd = at::rsqrt(at::add(*invstd, eps));
  }
  const auto gradients = at::native_batch_norm_backward(
      grad_output, input, widened(weight), widened(running_mean), widened(running_var),
      widened(save_mean), invstd, training, eps, output_mask);
  if (output_mask[0]) grad_input = std::get<0>(gradients);
  if (output_mask[1]) grad_weight = std::get<1>(gradients);
  if (output_mask[2]) grad_bias = std::get<2>(gradients);
}

ACLNN(aclnnLayerNorm, floats, In input, Ints normalized_shape, MaybeIn weight, MaybeIn bias,
      double eps, Out output, MaybeOut mean, MaybeOut rstd) {
  const auto results = at::native_layer_norm(input, *normalized_shape, weight, bias, eps);
  output = std::get<0>(results);
  if (mean) mean = std::get<1>(results);
  if (rstd) rstd = std::get<2>(results);
}

ACLNN(aclnnLayerNormBackward, floats, In grad_output, In input, Ints normalized_shape, In mean,
      In rstd, MaybeIn weight, MaybeIn bias, Bools output_mask, MaybeOut grad_input,
      MaybeOut grad_weight, MaybeOut grad_bias) {
  const auto gradients = at::native_layer_norm_backward(grad_output, input, *normalized_shape, mean,
                                                        rstd, weight, bias, output_mask);
  if (output_mask[0]) grad_input = std::get<0>(gradients);
  if (output_mask[1]) grad_weight = std::get<1>(gradients);
  if (output_mask[2]) grad_bias = std::get<2>(gradients);
}

}  // namespace emulator::aclnn
