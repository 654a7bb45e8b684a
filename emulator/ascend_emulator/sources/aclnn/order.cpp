// Sorting, selection and running sums.

#include <ATen/ops/_unique2.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cumprod.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/kthvalue.h>
#include <ATen/ops/masked_select.h>
#include <ATen/ops/median.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/topk.h>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

// For outputs as long as their data say. The caller gives memory for the largest case and asks
// aclGetViewShape how much of it was used.
void fill_and_shrink(const Out& out, const at::Tensor& result) {
  aclTensor& tensor = *out.handle;
  if (result.numel() > tensor.value.numel()) {
    refuse("the result has " + std::to_string(result.numel()) + " elements, and the output " +
           std::to_string(tensor.value.numel()));
  }
  tensor.shape = result.sizes().vec();
  tensor.value = tensor.value.flatten().narrow(0, 0, result.numel()).view(result.sizes());
  tensor.value.copy_(result);
}

}  // namespace

ACLNN(aclnnCumsum, reals | complexes, In self, int64_t dim, aclDataType dtype, Out out) {
  out = at::cumsum(self, dim, torch_dtype(dtype));
}

ACLNN(aclnnCumprod, reals | unsigneds, In self, Value dim, aclDataType dtype, Out out) {
  out = at::cumprod(self, dim->toLong(), torch_dtype(dtype));
}

// aclnnTopk with a sort policy, which is about speed, before the outputs. torch_npu 2.13.0 asks for it,
// and seems to take aclnnTopk where CANN lacks it; it is not in the operators of 9.1.0.
// Follows ops-math@9.1.0 math/topk/docs/aclnnTopk.md
// Follows ops-nn@9.1.0 index/gather_elements/op_api/aclnn_topk.cpp
ACLNN(aclnnTopkV2, reals, In self, int64_t k, int64_t dim, bool largest, bool sorted, int64_t,
      Out values, IndexOut indices) {
  if (indices->scalar_type() != at::kLong) {
    refuse("indicesOut is " + name_of(indices->scalar_type()) + ", and must be DT_INT64");
  }
  const auto results = at::topk(self, k, dim, largest, sorted);
  values = std::get<0>(results);
  indices = std::get<1>(results);
}

ACLNN(aclnnSort, plain, In self, bool stable, int64_t dim, bool descending, Out values,
      IndexOut indices) {
  const auto results = at::sort(self, stable, dim, descending);
  values = std::get<0>(results);
  indices = std::get<1>(results);
}

ACLNN(aclnnKthvalue, floats | integers, In self, int64_t k, int64_t dim, bool keepdim, Out values,
      IndexOut indices) {
  const auto results = at::kthvalue(self, k, dim, keepdim);
  values = std::get<0>(results);
  indices = std::get<1>(results);
}

ACLNN(aclnnMedian, floats | integers, In self, Out values) { values = at::median(self); }

ACLNN(aclnnMedianDim, floats | integers, In self, int64_t dim, bool keepdim, Out values,
      IndexOut indices) {
  const auto results = at::median(self, dim, keepdim);
  values = std::get<0>(results);
  indices = std::get<1>(results);
}

ACLNN(aclnnBincount, f16 | f32 | f64 | integers | boolean, In self, MaybeIn weights,
      int64_t minlength, Out out) {
  out = at::bincount(self, weights, minlength);
}

ACLNN(aclnnNonzero, plain, In self, AnyOut out) { fill_and_shrink(out, at::nonzero(self)); }

// The coordinates of one element are a column, not a row.
ACLNN(aclnnNonzeroV2, plain | unsigneds, In self, AnyOut out) {
  fill_and_shrink(out, at::nonzero(self).t());
}

ACLNN(aclnnMaskedSelect, plain, In self, Mask mask, Out out) {
  fill_and_shrink(out, at::masked_select(self, mask->to(at::kBool)));
}

ACLNN(aclnnUnique2, plain, In self, bool sorted, bool return_inverse, bool return_counts,
      Out values, AnyOut inverse, AnyOut counts) {
  const auto results = at::_unique2(self, sorted, return_inverse, return_counts);
  fill_and_shrink(values, std::get<0>(results));
  if (return_inverse) inverse = std::get<1>(results);
  if (return_counts) fill_and_shrink(counts, std::get<2>(results));
}

}  // namespace emulator::aclnn
