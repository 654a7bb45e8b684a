// Copies: of another dtype, layout or arrangement.

#include <ATen/ops/cat.h>
#include <ATen/ops/channel_shuffle.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tril.h>
#include <ATen/ops/triu.h>

#include "operator.hpp"

namespace emulator::aclnn {

// Any strides, any pair of dtypes, with broadcasting.
// Follows ops-math@9.1.0 conversion/view_copy/docs/aclnnInplaceCopy.md
// Follows ops-math@9.1.0 conversion/view_copy/op_api/aclnn_copy.cpp
ACLNN(aclnnInplaceCopy, numbers | unsigneds, Out self, In src) { self->copy_(src); }

ACLNN(aclnnCast, numbers | unsigneds, In self, aclDataType dtype, Out out) {
  out = self->to(torch_dtype(dtype));
}

// Follows ops-math@9.1.0 conversion/concat_d/docs/aclnnCat.md
// Follows ops-math@9.1.0 conversion/concat_d/op_api/aclnn_cat.cpp
ACLNN(aclnnCat, plain | c64, Ins tensors, int64_t dim, Out out) { out = at::cat(tensors, dim); }

// Follows ops-math@9.1.0 conversion/pack/docs/aclnnStack.md
ACLNN(aclnnStack, numbers | unsigneds, Ins tensors, int64_t dim, Out out) {
  out = at::stack(tensors, dim);
}

ACLNN(aclnnSplitWithSize, numbers | unsigneds, In self, Ints sizes, int64_t dim, Outs out) {
  const std::vector<at::Tensor> parts = self->split_with_sizes(sizes, dim);
  for (size_t i = 0; i < out.size(); ++i) out[i] = parts[i];
}

// The page names bfloat16 for the output alone; the source takes it for both.
// Follows ops-math@9.1.0 conversion/transpose/docs/aclnnChannelShuffle.md
// Follows ops-math@9.1.0 conversion/transpose/op_api/aclnn_channel_shuffle.cpp
ACLNN(aclnnChannelShuffle, numbers, In self, int64_t groups, Out out) {
  out = at::channel_shuffle(self, groups);
}

ACLNN(aclnnFlip, numbers, In self, Ints dims, Out out) { out = at::flip(self, dims); }

ACLNN(aclnnRoll, floats | integers | u32 | boolean | c64, In self, Ints shifts, Ints dims,
      Out out) {
  out = at::roll(self, shifts, dims);
}

ACLNN(aclnnRepeat, plain | c64 | unsigneds, In self, Ints repeats, Out out) {
  out = self->repeat(repeats);
}

ACLNN(aclnnRepeatInterleaveIntWithDim, on_910b(floats | integers | boolean), In self,
      int64_t repeats, int64_t dim, int64_t, Out out) {
  out = at::repeat_interleave(self, repeats, dim);
}

// Follows ops-math@9.1.0 conversion/pad_v3/docs/aclnnConstantPadNd.md
ACLNN(aclnnConstantPadNd, numbers | unsigneds, In self, Ints pad, Value value, Out out) {
  out = at::constant_pad_nd(self, pad, value);
}

ACLNN(aclnnTril, plain | unsigneds, In self, int64_t diagonal, Out out) {
  out = at::tril(self, diagonal);
}

ACLNN(aclnnTriu, plain | unsigneds, In self, int64_t diagonal, Out out) {
  out = at::triu(self, diagonal);
}

ACLNN(aclnnInplaceTril, plain | unsigneds, InOut self, int64_t diagonal) {
  self = at::tril(self, diagonal);
}

ACLNN(aclnnInplaceTriu, plain | unsigneds, InOut self, int64_t diagonal) {
  self = at::triu(self, diagonal);
}

}  // namespace emulator::aclnn
