// The argument types with which an operator is stated. Each is one pointer and nothing else, so
// that it is passed exactly as the pointer to CANN's handle is (x86-64 and AArch64 pass such a
// class in the register of the pointer), and each turns into what ATen takes.

#ifndef ASCEND_EMULATOR_ACLNN_ARGUMENTS_HPP_
#define ASCEND_EMULATOR_ACLNN_ARGUMENTS_HPP_

#include <array>
#include <optional>
#include <type_traits>
#include <vector>

#include "handles.hpp"
#include "types.hpp"

namespace emulator::aclnn {

// A tensor that is read, of the dtypes that the operator takes.
struct In {
  aclTensor* handle;
  operator const at::Tensor&() const { return handle->value; }
  const at::Tensor* operator->() const { return &handle->value; }
  const at::Tensor& operator*() const { return handle->value; }
};

// As In; the caller may leave it out (a null pointer).
struct MaybeIn {
  aclTensor* handle;
  explicit operator bool() const { return handle != nullptr; }
  operator std::optional<at::Tensor>() const {
    return handle == nullptr ? std::nullopt : std::optional<at::Tensor>(handle->value);
  }
  const at::Tensor* operator->() const { return &handle->value; }
  const at::Tensor& operator*() const { return handle->value; }
};

// As In, but of any dtype; of int32 or int64; of these or uint8; of bool or uint8.
struct AnyIn : In {};
struct Index : In {};
struct Label : In {};
struct Mask : In {};

// A tensor of which the operator reads as many elements as it writes: a source to gather from.
struct Source : In {};

// A tensor that is written. `out = at::f(x)` fills the caller's memory, converting to its dtype; a
// result of another shape is refused, since a chip writes where it is told and never resizes.
struct Out {
  aclTensor* handle;
  const Out& operator=(const at::Tensor& result) const;
  at::Tensor& operator*() const { return handle->value; }
  at::Tensor* operator->() const { return &handle->value; }
  explicit operator bool() const { return handle != nullptr; }
};

// As Out, of any dtype; left out by a caller that does not want it; of int32 or int64.
struct AnyOut : Out {
  using Out::operator=;
};
struct MaybeOut : Out {
  using Out::operator=;
};
struct IndexOut : Out {
  using Out::operator=;
};

// A tensor that is read and then written, and one of which only the elements that the operator's
// indices name are.
struct InOut : Out {
  using Out::operator=;
  operator const at::Tensor&() const { return handle->value; }
};
struct MaybeInOut : Out {
  using Out::operator=;
  operator std::optional<at::Tensor>() const {
    return handle == nullptr ? std::nullopt : std::optional<at::Tensor>(handle->value);
  }
};
struct Target : InOut {
  using Out::operator=;
};

struct Value {
  aclScalar* handle;
  operator const at::Scalar&() const { return handle->value; }
  const at::Scalar* operator->() const { return &handle->value; }
  const at::Scalar& operator*() const { return handle->value; }
};

struct MaybeValue {
  aclScalar* handle;
  operator std::optional<at::Scalar>() const {
    return handle == nullptr ? std::nullopt : std::optional<at::Scalar>(handle->value);
  }
};

struct Ints {
  aclIntArray* handle;
  operator at::IntArrayRef() const { return handle->values; }
  at::IntArrayRef operator*() const { return handle->values; }
};

// Left out means all dimensions, or none given.
struct MaybeInts {
  aclIntArray* handle;
  operator at::OptionalIntArrayRef() const {
    return handle == nullptr ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(handle->values);
  }
  at::IntArrayRef operator*() const {
    return handle == nullptr ? at::IntArrayRef() : at::IntArrayRef(handle->values);
  }
};

struct Bools {
  aclBoolArray* handle;
  bool operator[](uint64_t i) const { return i < handle->size && handle->values[i]; }
  operator std::array<bool, 3>() const { return {(*this)[0], (*this)[1], (*this)[2]}; }
};

struct Ins {
  aclTensorList* handle;
  operator at::TensorList() const { return handle->values; }
  const at::Tensor& operator[](size_t i) const { return handle->values[i]; }
  size_t size() const { return handle->values.size(); }
};

// The indices of x[i, :, j]: a member is null, or a tensor of no elements, where all is taken.
struct Indices {
  aclTensorList* handle;
};

struct Outs {
  aclTensorList* handle;
  Out operator[](size_t i) const { return {handle->members[i]}; }
  size_t size() const { return handle->members.size(); }
};

struct InOuts : Outs {
  operator at::TensorList() const { return handle->values; }
};

struct Values {
  aclScalarList* handle;
  operator at::ArrayRef<at::Scalar>() const { return handle->values; }
  const at::Scalar& operator[](size_t i) const { return handle->values[i]; }
};

// ---- What the template behind ACLNN() asks of an argument -------------------------------------

template <typename T>
constexpr bool is_optional =
    std::is_same_v<T, MaybeIn> || std::is_same_v<T, MaybeOut> || std::is_same_v<T, MaybeInOut> ||
    std::is_same_v<T, MaybeValue> || std::is_same_v<T, MaybeInts>;

template <typename T>
constexpr bool is_tensor =
    std::is_base_of_v<In, T> || std::is_base_of_v<Out, T> || std::is_same_v<T, MaybeIn>;

template <typename T>
constexpr bool is_list =
    std::is_same_v<T, Ins> || std::is_same_v<T, Indices> || std::is_base_of_v<Outs, T>;

template <typename T, typename = void>
constexpr bool is_handle = false;
template <typename T>
constexpr bool is_handle<T, std::void_t<decltype(std::declval<T>().handle)>> = true;

template <typename T>
constexpr Use use_of() {
  if (std::is_same_v<T, Source> || std::is_same_v<T, Target>) return Use::kPart;
  if (std::is_base_of_v<InOut, T> || std::is_same_v<T, MaybeInOut> || std::is_same_v<T, InOuts>) {
    return Use::kUpdated;
  }
  if (std::is_base_of_v<Out, T> || std::is_same_v<T, Outs>) return Use::kWritten;
  return Use::kRead;
}

template <typename T>
constexpr Types types_of(Types of_operator) {
  const uint64_t chips = of_operator.bits & kNot910A;
  if (std::is_same_v<T, Index> || std::is_same_v<T, IndexOut>) return {(i32 | i64).bits | chips};
  if (std::is_same_v<T, Mask>) return {(boolean | u8).bits | chips};
  if (std::is_same_v<T, Label>) return {(i32 | i64 | u8).bits | chips};
  if (std::is_same_v<T, AnyIn> || std::is_same_v<T, AnyOut> || std::is_same_v<T, Indices>) {
    return {everything.bits | chips};
  }
  return of_operator;
}

}  // namespace emulator::aclnn

#endif  // ASCEND_EMULATOR_ACLNN_ARGUMENTS_HPP_
