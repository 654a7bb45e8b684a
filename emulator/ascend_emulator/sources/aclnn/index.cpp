// Reading and writing at indices. What is read of a Source, or written of a Target, is as much as
// the indices name.

#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/index.h>
#include <ATen/ops/index_add.h>
#include <ATen/ops/index_copy.h>
#include <ATen/ops/index_fill.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/masked_scatter.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/scatter.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/scatter_reduce.h>
#include <ATen/ops/take.h>
#include <ATen/ops/where.h>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

at::Tensor longs(const at::Tensor& index) { return index.to(at::kLong); }

// A dimension that is taken whole comes as a null pointer or as an empty tensor of any dtype.
c10::List<std::optional<at::Tensor>> index_list(const Indices& indices) {
  c10::List<std::optional<at::Tensor>> list;
  for (const aclTensor* member : indices.handle->members) {
    if (member == nullptr || member->value.numel() == 0) {
      list.push_back(std::nullopt);
      continue;
    }
    const at::ScalarType dtype = member->value.scalar_type();
    if (!takes(i32 | i64 | boolean | u8, dtype)) {
      refuse("an index is " + name_of(dtype) + ", and must be DT_INT32, DT_INT64 or DT_BOOL");
    }
    list.push_back(dtype == at::kInt ? longs(member->value) : member->value);
  }
  return list;
}

// aclnnScatter's reduce (aclnnScatter.md): 0 none, 1 add, 2 multiply.
at::Tensor scattered(const at::Tensor& self, int64_t dim, const at::Tensor& index,
                     const at::Tensor& src, int64_t reduce) {
  switch (reduce) {
    case 0:
      return at::scatter(self, dim, longs(index), src);
    case 1:
      return at::scatter_add(self, dim, longs(index), src);
    case 2:
      return at::scatter_reduce(self, dim, longs(index), src, "prod");
    default:
      refuse("reduce is " + std::to_string(reduce) + ", and must be 0, 1 or 2");
  }
}

at::Tensor scattered(const at::Tensor& self, int64_t dim, const at::Tensor& index,
                     const at::Scalar& value, int64_t reduce) {
  return scattered(self, dim, index, at::scalar_tensor(value, self.options()).expand_as(index),
                   reduce);
}

}  // namespace

// Follows ops-nn@9.1.0 index/gather_v2/docs/aclnnIndexSelect.md
// Follows ops-nn@9.1.0 index/gather_v2/op_api/aclnn_index_select.cpp
ACLNN(aclnnIndexSelect, numbers | unsigneds, Source self, int64_t dim, Index index, Out out) {
  out = at::index_select(self, dim, index);
  reads(*out);
}

ACLNN(aclnnGather, plain | unsigneds, Source self, int64_t dim, Index index, Out out) {
  out = at::gather(self, dim, longs(index));
  reads(*out);
}

ACLNN(aclnnTake, numbers | unsigneds, Source self, Index index, Out out) {
  out = at::take(self, longs(index));
  reads(*out);
}

ACLNN(aclnnIndex, plain, Source self, Indices indices, Out out) {
  if (out->numel() == 0) {
    return;
  }
  out = at::index(self, index_list(indices));
  reads(*out);
}

ACLNN(aclnnIndexPutImpl, on_910b(plain), Target self, Indices indices, In values, bool accumulate,
      bool) {
  self->index_put_(index_list(indices), values, accumulate);
  if (accumulate) reads(values);
  writes(values);
}

ACLNN(aclnnIndexAdd, plain, In self, int64_t dim, Index index, In source, Value alpha, Out out) {
  out = at::index_add(self, dim, index, source, alpha);
}

ACLNN(aclnnIndexCopy, numbers, In self, int64_t dim, Index index, In source, Out out) {
  out = at::index_copy(self, dim, longs(index), source);
}

ACLNN(aclnnInplaceIndexCopy, numbers, Target self, int64_t dim, Index index, In source) {
  self->index_copy_(dim, longs(index), source);
  writes(source);
}

ACLNN(aclnnIndexFill, on_910b(floats | i32 | i64 | boolean), In self, int64_t dim, Index index,
      Value value, Out out) {
  out = at::index_fill(self, dim, longs(index), value);
}

ACLNN(aclnnInplaceIndexFill, on_910b(floats | i32 | i64 | boolean), Target self, int64_t dim,
      Index index, Value value) {
  self->index_fill_(dim, longs(index), value);
  writes(self->index_select(dim, index));
}

ACLNN(aclnnScatter, numbers, In self, int64_t dim, Index index, In src, int64_t reduce, Out out) {
  out = scattered(self, dim, index, src, reduce);
}

ACLNN(aclnnScatterValue, numbers, In self, int64_t dim, Index index, Value value, int64_t reduce,
      Out out) {
  out = scattered(self, dim, index, *value, reduce);
}

ACLNN(aclnnInplaceScatter, numbers, Target self, int64_t dim, Index index, In src, int64_t reduce) {
  self = scattered(self, dim, index, src, reduce);
  writes(src);
}

ACLNN(aclnnInplaceScatterValue, numbers, Target self, int64_t dim, Index index, Value value,
      int64_t reduce) {
  self = scattered(self, dim, index, *value, reduce);
  writes(index->to(self->scalar_type()));
}

ACLNN(aclnnScatterAdd, numbers, In self, int64_t dim, Index index, In src, Out out) {
  out = scattered(self, dim, index, src, 1);
}

ACLNN(aclnnEmbedding, numbers, Source weight, Index indices, Out out) {
  out = at::embedding(weight, longs(indices));
  reads(*out);
}

ACLNN(aclnnEmbeddingDenseBackward, floats, In grad, Index indices, uint64_t num_weights,
      uint64_t padding_index, bool scale_by_frequency, Out out) {
  out = at::embedding_dense_backward(grad, longs(indices), static_cast<int64_t>(num_weights),
                                     static_cast<int64_t>(padding_index), scale_by_frequency);
}

// The classes become a new dimension before `axis` (-1: the last).
ACLNN(aclnnOneHot, i32 | i64, Label self, int64_t num_classes, AnyIn on_value, AnyIn off_value,
      int64_t axis, AnyOut out) {
  const int64_t where = axis < 0 ? self->dim() : axis;
  std::vector<int64_t> shape(self->dim() + 1, 1);
  shape[where] = num_classes;
  const at::Tensor classes = at::arange(num_classes, self->options()).view(shape);
  out = at::where(at::eq(self->unsqueeze(where), classes), on_value->reshape({}),
                  off_value->reshape({}));
}

// Follows ops-math@9.1.0 conversion/masked_fill/docs/aclnnInplaceMaskedFillScalar.md
// Follows ops-math@9.1.0 conversion/masked_fill/op_api/aclnn_masked_fill_scalar.cpp
ACLNN(aclnnInplaceMaskedFillScalar, floats | i8 | i32 | i64 | boolean, InOut self, Mask mask,
      Value value) {
  if (mask->scalar_type() != at::kBool) {
    refuse("mask is " + name_of(mask->scalar_type()) + ", and must be DT_BOOL");
  }
  self = at::masked_fill(self, mask->to(at::kBool), value);
}

ACLNN(aclnnInplaceMaskedFillTensor, floats | i8 | i32 | i64 | boolean, InOut self, Mask mask,
      AnyIn value) {
  self = at::masked_fill(self, mask->to(at::kBool), value->reshape({}));
}

ACLNN(aclnnInplaceMaskedScatter, plain, InOut self, Mask mask, In source) {
  self = at::masked_scatter(self, mask->to(at::kBool), source);
}

}  // namespace emulator::aclnn
