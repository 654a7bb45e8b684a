// Arithmetic on lists of tensors in one launch, with a list, a scalar for all or a scalar each. The
// 910A class has none of them. Of what has a V2, torch_npu takes that.

#include <ATen/ops/add.h>
#include <ATen/ops/addcdiv.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/clamp_max.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/div.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sub.h>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

constexpr Types with_i32 = floats | i32;
constexpr Types with_small = floats | i8 | i16 | i32 | u8;

}  // namespace

#define FOREACH_SCALAR(Name, types, f)                                                     \
  ACLNN(aclnnForeach##Name##ScalarV2, on_910b(types), Ins x, Value scalar, Outs out) {     \
    for (size_t i = 0; i < out.size(); ++i) out[i] = f(x[i], *scalar);                     \
  }                                                                                        \
  ACLNN(aclnnForeach##Name##ScalarList, on_910b(types), Ins x, Values scalars, Outs out) { \
    for (size_t i = 0; i < out.size(); ++i) out[i] = f(x[i], scalars[i]);                  \
  }

FOREACH_SCALAR(Add, with_small, at::add)
FOREACH_SCALAR(Sub, with_i32, at::sub)
// aclnnForeachMulScalarV2 follows ops-nn@9.1.0 foreach/foreach_mul_scalar/docs/aclnnForeachMulScalarV2.md
FOREACH_SCALAR(Mul, with_i32, at::mul)
// aclnnForeachDivScalarV2 follows ops-nn@9.1.0 foreach/foreach_div_scalar/docs/aclnnForeachDivScalarV2.md
FOREACH_SCALAR(Div, floats, at::div)
FOREACH_SCALAR(Maximum, with_i32, at::clamp_min)
FOREACH_SCALAR(Minimum, with_i32, at::clamp_max)
FOREACH_SCALAR(Pow, with_i32, at::pow)

#define FOREACH_LIST(Name, types, f)                                          \
  ACLNN(aclnnForeach##Name##List, on_910b(types), Ins x1, Ins x2, Outs out) { \
    for (size_t i = 0; i < out.size(); ++i) out[i] = f(x1[i], x2[i]);         \
  }

FOREACH_LIST(Mul, with_small, at::mul)
FOREACH_LIST(Div, floats, at::div)
FOREACH_LIST(Maximum, with_i32, at::maximum)
FOREACH_LIST(Minimum, with_i32, at::minimum)
FOREACH_LIST(Pow, with_i32, at::pow)

#define FOREACH_LIST_SCALED(Name, types, f)                                                  \
  ACLNN(aclnnForeach##Name##ListV2, on_910b(types), Ins x1, Ins x2, Value alpha, Outs out) { \
    for (size_t i = 0; i < out.size(); ++i) out[i] = f(x1[i], x2[i], *alpha);                \
  }

// Follows ops-nn@9.1.0 foreach/foreach_add_list/docs/aclnnForeachAddListV2.md
// Follows ops-nn@9.1.0 foreach/foreach_add_list/op_host/op_api/aclnn_foreach_add_list_v2.cpp
FOREACH_LIST_SCALED(Add, with_i32, at::add)
FOREACH_LIST_SCALED(Sub, with_small, at::sub)

// The scalars, one for each, are a tensor.
#define FOREACH_PRODUCT(Name, types, f)                                                        \
  ACLNN(aclnnForeach##Name##ScalarV2, on_910b(types), Ins x1, Ins x2, Ins x3, Value scalar,    \
        Outs out) {                                                                            \
    for (size_t i = 0; i < out.size(); ++i) out[i] = f(x1[i], x2[i], x3[i], *scalar);          \
  }                                                                                            \
  ACLNN(aclnnForeach##Name##ScalarList, on_910b(types), Ins x1, Ins x2, Ins x3, AnyIn scalars, \
        Outs out) {                                                                            \
    for (size_t i = 0; i < out.size(); ++i) {                                                  \
      out[i] = f(x1[i], x2[i], x3[i], scalars->select(0, static_cast<int64_t>(i)).item());     \
    }                                                                                          \
  }

FOREACH_PRODUCT(Addcmul, with_i32, at::addcmul)
FOREACH_PRODUCT(Addcdiv, floats, at::addcdiv)

ACLNN(aclnnForeachPowScalarAndTensor, on_910b(with_i32), Value scalar, Ins x, Outs out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = at::pow(*scalar, x[i]);
}

// Follows ops-nn@9.1.0 foreach/foreach_lerp_scalar/docs/aclnnForeachLerpScalar.md
ACLNN(aclnnForeachLerpScalar, on_910b(floats), Ins x1, Ins x2, Value weight, Outs out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = at::lerp(x1[i], x2[i], *weight);
}

ACLNN(aclnnForeachLerpList, on_910b(floats), Ins x1, Ins x2, Ins weights, Outs out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = at::lerp(x1[i], x2[i], weights[i]);
}

}  // namespace emulator::aclnn
