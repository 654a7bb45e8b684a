// aclCreate..., aclDestroy... and aclGet... of CANN's acl_meta.h.

#include "handles.hpp"

#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/complex.h>

#include <algorithm>
#include <cstring>

#include "../emulator.hpp"
#include "errors.hpp"
#include "types.hpp"

namespace {

using emulator::aclnn::torch_dtype;

// The scalar of a C value whose type is only known at run time.
template <typename T>
at::Scalar scalar_of(const void* value) {
  T typed;
  std::memcpy(&typed, value, sizeof(T));
  return at::Scalar(typed);
}

// Destroying nothing succeeds, as in CANN: the caller destroys optional arguments it did not give.
template <typename T>
int destroy(const T* handle) {
  delete handle;
  return 0;
}

template <typename Array, typename T>
Array* array_of(const T* values, uint64_t size) {
  auto* array = new Array;
  array->values.assign(values, values + size);
  return array;
}

}  // namespace

extern "C" {

EMULATOR_API aclTensor* aclCreateTensor(const int64_t* view_shape, uint64_t view_rank,
                                        aclDataType dtype, const int64_t* strides, int64_t offset,
                                        aclFormat format, const int64_t* storage_shape,
                                        uint64_t storage_rank, void* data) {
  const c10::ScalarType type = torch_dtype(dtype);
  if (type == c10::ScalarType::Undefined) {
    emulator::fail(emulator::aclnn::kInvalid,
                   "aclCreateTensor: the emulator has no tensors of aclDataType " +
                       std::to_string(static_cast<int>(dtype)));
    return nullptr;
  }
  // The caller may be inside torch.inference_mode, and the launch on another thread that is not.
  const c10::InferenceMode no_inference(false);
  auto* tensor = new aclTensor;
  tensor->shape.assign(view_shape, view_shape + view_rank);
  tensor->storage_shape.assign(storage_shape, storage_shape + storage_rank);
  tensor->storage = data;
  tensor->format = format;
  auto* first = static_cast<char*>(data);
  if (first != nullptr) {
    first += offset * static_cast<int64_t>(c10::elementSize(type));
  }
  tensor->value = at::from_blob(first, tensor->shape, at::IntArrayRef(strides, view_rank),
                                at::TensorOptions().dtype(type));
  return tensor;
}

EMULATOR_API aclScalar* aclCreateScalar(void* value, aclDataType dtype) {
  auto* scalar = new aclScalar;
  switch (dtype) {
    case ACL_DOUBLE:
      scalar->value = scalar_of<double>(value);
      break;
    case ACL_FLOAT:
      scalar->value = scalar_of<float>(value);
      break;
    case ACL_FLOAT16:
      scalar->value = scalar_of<at::Half>(value);
      break;
    case ACL_BF16:
      scalar->value = scalar_of<at::BFloat16>(value);
      break;
    case ACL_INT64:
      scalar->value = scalar_of<int64_t>(value);
      break;
    case ACL_INT32:
      scalar->value = scalar_of<int32_t>(value);
      break;
    case ACL_BOOL:
      scalar->value = scalar_of<bool>(value);
      break;
    case ACL_COMPLEX128:
      scalar->value = scalar_of<c10::complex<double>>(value);
      break;
    default:
      delete scalar;
      emulator::fail(emulator::aclnn::kInvalid,
                     "aclCreateScalar: the emulator has no scalars of aclDataType " +
                         std::to_string(static_cast<int>(dtype)));
      return nullptr;
  }
  return scalar;
}

EMULATOR_API aclIntArray* aclCreateIntArray(const int64_t* values, uint64_t size) {
  return array_of<aclIntArray>(values, size);
}

EMULATOR_API aclFloatArray* aclCreateFloatArray(const float* values, uint64_t size) {
  return array_of<aclFloatArray>(values, size);
}

EMULATOR_API aclBoolArray* aclCreateBoolArray(const bool* values, uint64_t size) {
  auto* array = new aclBoolArray;
  array->values = std::make_unique<bool[]>(size);
  array->size = size;
  std::copy(values, values + size, array->values.get());
  return array;
}

EMULATOR_API aclTensorList* aclCreateTensorList(const aclTensor* const* members, uint64_t size) {
  auto* list = new aclTensorList;
  for (uint64_t i = 0; i < size; ++i) {
    list->members.push_back(const_cast<aclTensor*>(members[i]));
    list->values.push_back(members[i] == nullptr ? at::Tensor() : members[i]->value);
  }
  return list;
}

EMULATOR_API aclScalarList* aclCreateScalarList(const aclScalar* const* members, uint64_t size) {
  auto* list = new aclScalarList;
  for (uint64_t i = 0; i < size; ++i) {
    list->members.push_back(const_cast<aclScalar*>(members[i]));
    list->values.push_back(members[i] == nullptr ? at::Scalar() : members[i]->value);
  }
  return list;
}

EMULATOR_API int aclDestroyTensor(const aclTensor* tensor) { return destroy(tensor); }
EMULATOR_API int aclDestroyScalar(const aclScalar* scalar) { return destroy(scalar); }
EMULATOR_API int aclDestroyIntArray(const aclIntArray* array) { return destroy(array); }
EMULATOR_API int aclDestroyFloatArray(const aclFloatArray* array) { return destroy(array); }
EMULATOR_API int aclDestroyBoolArray(const aclBoolArray* array) { return destroy(array); }
EMULATOR_API int aclDestroyAclOpExecutor(aclOpExecutor* executor) { return destroy(executor); }

EMULATOR_API int aclDestroyTensorList(const aclTensorList* list) {
  if (list != nullptr) {
    std::for_each(list->members.begin(), list->members.end(), destroy<aclTensor>);
  }
  return destroy(list);
}

EMULATOR_API int aclDestroyScalarList(const aclScalarList* list) {
  if (list != nullptr) {
    std::for_each(list->members.begin(), list->members.end(), destroy<aclScalar>);
  }
  return destroy(list);
}

// The caller frees the array with delete[].
EMULATOR_API int aclGetViewShape(const aclTensor* tensor, int64_t** shape, uint64_t* rank) {
  *rank = tensor->shape.size();
  *shape = new int64_t[tensor->shape.size()];
  std::copy(tensor->shape.begin(), tensor->shape.end(), *shape);
  return 0;
}

}  // extern "C"
