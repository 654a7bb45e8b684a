// How an operator is stated:
//
//   ACLNN(aclnnAdd, numbers, In self, In other, Value alpha, Out out) {
//     out = at::add(self, other, alpha);
//   }
//
// the name, the dtypes that its tensors may have (types.hpp), the arguments in aclnn's order
// (arguments.hpp), and the computation by ATen on the CPU. That makes the two functions that
// torch_npu looks up: aclnnAddGetWorkspaceSize, which checks the arguments, and aclnnAdd, which
// computes.
//
// Where the facts are from: names and order of arguments from op-plugin, which calls them
// (EXEC_NPU_CMD), and from the headers of CANN's operators; dtypes from the page aclnnX.md and the
// support lists in the op_api sources of the same name, in CANN's ops-nn, ops-math and ops-cv
// repositories. Precision is that of ATen on the CPU, also in fp16 and bf16; it is not the chip's.

#ifndef ASCEND_EMULATOR_ACLNN_OPERATOR_HPP_
#define ASCEND_EMULATOR_ACLNN_OPERATOR_HPP_

#include <acl/acl_base.h>

#include <utility>

#include "../emulator.hpp"
#include "arguments.hpp"
#include "errors.hpp"
#include "handles.hpp"
#include "types.hpp"

namespace emulator::aclnn {

struct Operator {
  const char* name;
  Types types;
  const char* arguments;  // as written, for messages
};

// Refuses the call: for what the argument types do not say. Only inside an operator's computation.
[[noreturn]] void refuse(const std::string& why);

// Adds to the bytes of the running launch, for an operator that touches only a part of a tensor
// that it declares as Source or Target.
void reads(const at::Tensor& like);
void writes(const at::Tensor& like);

// What kernel_model.py reads: "0r float 2,58,28,28 c;..." for each tensor (position, use, dtype,
// shape, and c for contiguous or v for a view), and "4=1,1" for numbers that decide what is launched.
std::string signature(const std::vector<Operand>& operands, const std::string& numbers);

template <typename T>
std::string number_text(int position, T argument) {
  std::string text;
  if constexpr (std::is_same_v<T, Ints> || std::is_same_v<T, MaybeInts>) {
    if (argument.handle == nullptr) return "";
    for (const int64_t value : argument.handle->values) {
      text += (text.empty() ? "" : ",") + std::to_string(value);
    }
  } else if constexpr (std::is_same_v<T, Bools>) {
    for (uint64_t i = 0; i < argument.handle->size; ++i) {
      text += std::string(i == 0 ? "" : ",") + (argument.handle->values[i] ? "1" : "0");
    }
  } else if constexpr (std::is_integral_v<T>) {
    text = std::to_string(static_cast<int64_t>(argument));
  } else {
    return "";
  }
  return ";" + std::to_string(position) + "=" + text;
}

// 0, or the recorded error: the operands' dtypes and memory.
int check(const Operator& op, const std::vector<Operand>& operands);

// 0, or the recorded error: an argument that is null, or not of the kind that is stated.
int check_handle(const Operator& op, int position, const Kind* kind, Kind expected, bool optional);

int launch(const char* name, aclOpExecutor* executor);

template <typename T>
int collect(const Operator& op, int position, T argument, std::vector<Operand>& operands) {
  if constexpr (is_handle<T>) {
    using Handle = std::remove_pointer_t<decltype(argument.handle)>;
    const Kind* kind = argument.handle == nullptr ? nullptr : &argument.handle->kind;
    // An empty list of tensors is passed as a null pointer.
    if (const int code = check_handle(op, position, kind, Handle::kKind, is_optional<T>)) {
      return code;
    }
    const uint64_t types = types_of<T>(op.types).bits;
    if constexpr (is_tensor<T>) {
      if (argument.handle != nullptr) {
        operands.push_back({argument.handle, use_of<T>(), types, position});
      }
    } else if constexpr (is_list<T>) {
      for (aclTensor* member : argument.handle->members) {
        if (member != nullptr) {
          operands.push_back({member, use_of<T>(), types, position});
        }
      }
    }
  }
  return kSuccess;
}

template <auto compute, const Operator* op>
struct Entry;

template <typename... A, void (*compute)(A...), const Operator* op>
struct Entry<compute, op> {
  static int prepare(A... arguments, uint64_t* workspace_size, aclOpExecutor** executor) {
    std::vector<Operand> operands;
    int position = 0;
    int code = kSuccess;
    ((code = code != kSuccess ? code : collect(*op, position++, arguments, operands)), ...);
    if (code == kSuccess) {
      code = check(*op, operands);
    }
    if (code == kSuccess) {
      *workspace_size = 0;
      std::string numbers;
      position = 0;
      ((numbers += number_text(position++, arguments)), ...);
      std::string text = signature(operands, numbers);
      *executor = new aclOpExecutor{op, std::move(operands), [=] { compute(arguments...); },
                                    std::move(text)};
    }
    return code;
  }
};

}  // namespace emulator::aclnn

// The exported symbol is an indirect function (dlsym calls the resolver, which names the template's
// instance), since a macro cannot forward arguments whose names it does not know.
#define ACLNN(name, types, ...)                                                             \
  static void name##_compute(__VA_ARGS__);                                                  \
  static constexpr ::emulator::aclnn::Operator name##_operator{#name, types, #__VA_ARGS__}; \
  extern "C" {                                                                              \
  static void* name##_resolve() {                                                           \
    return reinterpret_cast<void*>(                                                         \
        &::emulator::aclnn::Entry<&name##_compute, &name##_operator>::prepare);             \
  }                                                                                         \
  EMULATOR_API void name##GetWorkspaceSize() __attribute__((ifunc(#name "_resolve")));      \
  EMULATOR_API int name(void*, uint64_t, aclOpExecutor* executor, void*) {                  \
    return ::emulator::aclnn::launch(#name, executor);                                      \
  }                                                                                         \
  }                                                                                         \
  static void name##_compute(__VA_ARGS__)

#endif  // ASCEND_EMULATOR_ACLNN_OPERATOR_HPP_
