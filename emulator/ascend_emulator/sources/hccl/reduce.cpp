#include "hccl/reduce.hpp"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <limits>
#include <type_traits>

#include "emulator.hpp"

namespace hccl {
namespace {

// What one element is computed in. Signed integers are added unsigned: they must wrap around, which
// C++ defines for unsigned ones alone. Shorter ones than int are widened so that their product does
// not become a signed int.
template <typename T>
struct Arithmetic {
  using type = T;
};
template <>
struct Arithmetic<int8_t> {
  using type = uint32_t;
};
template <>
struct Arithmetic<int16_t> {
  using type = uint32_t;
};
template <>
struct Arithmetic<int32_t> {
  using type = uint32_t;
};
template <>
struct Arithmetic<int64_t> {
  using type = uint64_t;
};
template <>
struct Arithmetic<c10::Half> {
  using type = float;
};
template <>
struct Arithmetic<c10::BFloat16> {
  using type = float;
};

struct Sum {
  template <typename T>
  T operator()(T a, T b) const {
    using A = typename Arithmetic<T>::type;
    return static_cast<T>(static_cast<A>(a) + static_cast<A>(b));
  }
};

struct Product {
  template <typename T>
  T operator()(T a, T b) const {
    using A = typename Arithmetic<T>::type;
    return static_cast<T>(static_cast<A>(a) * static_cast<A>(b));
  }
};

struct Max {
  template <typename T>
  T operator()(T a, T b) const {
    return a < b || b != b ? b : a;
  }
};

struct Min {
  template <typename T>
  T operator()(T a, T b) const {
    return b < a || b != b ? b : a;
  }
};

template <typename T, typename Op>
void apply(T* accumulator, const T* values, uint64_t count, Op op) {
  for (uint64_t i = 0; i < count; ++i) accumulator[i] = op(accumulator[i], values[i]);
}

template <typename Op>
void apply_to_half(c10::Half* accumulator, const c10::Half* values, uint64_t count, Op op) {
  const bool saturates = emulator::saturates();
  const c10::Half largest = std::numeric_limits<c10::Half>::max();
  bool overflow = false;
  for (uint64_t i = 0; i < count; ++i) {
    const c10::Half a = accumulator[i];
    c10::Half result = op(a, values[i]);
    if (!std::isfinite(static_cast<float>(result)) && std::isfinite(static_cast<float>(a)) &&
        std::isfinite(static_cast<float>(values[i]))) {
      overflow = true;
      if (saturates) result = static_cast<float>(result) > 0 ? largest : -largest;
    }
    accumulator[i] = result;
  }
  if (overflow) emulator::flag_overflow();
}

template <typename T>
void dispatch_op(void* accumulator, const void* values, uint64_t count, ReduceOp op) {
  T* const a = static_cast<T*>(accumulator);
  const T* const b = static_cast<const T*>(values);
  const auto run = [&](auto function) {
    if constexpr (std::is_same_v<T, c10::Half>) {
      apply_to_half(a, b, count, function);
    } else {
      apply(a, b, count, function);
    }
  };
  switch (op) {
    case ReduceOp::kSum:
      return run(Sum());
    case ReduceOp::kProduct:
      return run(Product());
    case ReduceOp::kMax:
      return run(Max());
    case ReduceOp::kMin:
      return run(Min());
  }
}

}  // namespace

void reduce(void* accumulator, const void* values, uint64_t count, DataType dtype, ReduceOp op) {
  switch (dtype) {
    case DataType::kInt8:
      return dispatch_op<int8_t>(accumulator, values, count, op);
    case DataType::kInt16:
      return dispatch_op<int16_t>(accumulator, values, count, op);
    case DataType::kInt32:
      return dispatch_op<int32_t>(accumulator, values, count, op);
    case DataType::kInt64:
      return dispatch_op<int64_t>(accumulator, values, count, op);
    case DataType::kFloat16:
      return dispatch_op<c10::Half>(accumulator, values, count, op);
    case DataType::kBfloat16:
      return dispatch_op<c10::BFloat16>(accumulator, values, count, op);
    case DataType::kFloat32:
      return dispatch_op<float>(accumulator, values, count, op);
    default:  // refused by can_reduce
      return;
  }
}

}  // namespace hccl
