// Losses. `reduction` is torch's: 0 none, 1 mean, 2 sum.

#include <ATen/ops/binary_cross_entropy.h>
#include <ATen/ops/binary_cross_entropy_backward.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/mse_loss_backward.h>
#include <ATen/ops/nll_loss2d_backward.h>
#include <ATen/ops/nll_loss2d_forward.h>
#include <ATen/ops/nll_loss_backward.h>
#include <ATen/ops/nll_loss_forward.h>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

// The caller gives a weight for each class, ones where the user gave none.
void check_weight(const at::Tensor& weight, const at::Tensor& self) {
  if (weight.scalar_type() != self.scalar_type()) {
    refuse("weight is " + name_of(weight.scalar_type()) + ", and must be " +
           name_of(self.scalar_type()) + " as self is");
  }
}

}  // namespace

// Follows ops-nn@9.1.0 loss/nll_loss/docs/aclnnNLLLoss.md
// Follows ops-nn@9.1.0 loss/nll_loss/op_api/aclnn_nll_loss.cpp
ACLNN(aclnnNLLLoss, floats, In self, Label target, In weight, int64_t reduction,
      int64_t ignore_index, Out out, Out total_weight) {
  check_weight(weight, self);
  const auto [loss, total] =
      at::nll_loss_forward(self, target->to(at::kLong), *weight, reduction, ignore_index);
  out = loss;
  total_weight = total.view_as(*total_weight);
}

// Follows ops-nn@9.1.0 loss/nll_loss_grad/docs/aclnnNLLLossBackward.md
// Follows ops-nn@9.1.0 loss/nll_loss_grad/op_api/aclnn_nll_loss_backward.cpp
ACLNN(aclnnNLLLossBackward, floats, In grad_output, In self, Label target, In weight,
      int64_t reduction, int64_t ignore_index, In total_weight, Out grad_input) {
  check_weight(weight, self);
  grad_input = at::nll_loss_backward(grad_output, self, target->to(at::kLong), *weight, reduction,
                                     ignore_index, total_weight->reshape({}));
}

ACLNN(aclnnNLLLoss2d, floats, In self, Label target, MaybeIn weight, int64_t reduction,
      int64_t ignore_index, Out out, Out total_weight) {
  const auto [loss, total] =
      at::nll_loss2d_forward(self, target->to(at::kLong), weight, reduction, ignore_index);
  out = loss;
  total_weight = total.view_as(*total_weight);
}

ACLNN(aclnnNLLLoss2dBackward, floats, In grad_output, In self, Label target, MaybeIn weight,
      int64_t reduction, int64_t ignore_index, In total_weight, Out grad_input) {
  grad_input = at::nll_loss2d_backward(grad_output, self, target->to(at::kLong), weight, reduction,
                                       ignore_index, total_weight->reshape({}));
}

ACLNN(aclnnMseLoss, floats, In self, In target, int64_t reduction, Out out) {
  out = at::mse_loss(self, target, reduction);
}

ACLNN(aclnnMseLossBackward, floats, In grad_output, In self, In target, int64_t reduction,
      Out grad_input) {
  grad_input = at::mse_loss_backward(grad_output, self, target, reduction);
}

ACLNN(aclnnBinaryCrossEntropy, floats, In self, In target, MaybeIn weight, int64_t reduction,
      Out out) {
  out = at::binary_cross_entropy(self, target, weight, reduction);
}

ACLNN(aclnnBinaryCrossEntropyBackward, floats, In grad_output, In self, In target, MaybeIn weight,
      int64_t reduction, Out grad_input) {
  grad_input = at::binary_cross_entropy_backward(grad_output, self, target, weight, reduction);
}

ACLNN(aclnnBinaryCrossEntropyWithLogits, floats, In self, In target, MaybeIn weight,
      MaybeIn pos_weight, int64_t reduction, Out out) {
  out = at::binary_cross_entropy_with_logits(self, target, weight, pos_weight, reduction);
}

}  // namespace emulator::aclnn
