// What is behind aclnn's opaque handles. The caller makes them with aclCreateTensor and so on, and
// passes pointers to them; both sides are ours.

#ifndef ASCEND_EMULATOR_ACLNN_HANDLES_HPP_
#define ASCEND_EMULATOR_ACLNN_HANDLES_HPP_

#include <ATen/core/Tensor.h>
#include <acl/acl_base.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace emulator::aclnn {

// Stands first in every handle, so that an operator stated with its arguments in the wrong order
// says so instead of reading a number as a tensor.
enum class Kind : uint64_t {
  kTensor = 0x61636c5f74656e73,
  kScalar,
  kInts,
  kFloats,
  kBools,
  kTensors,
  kScalars,
};

struct Operator;

}  // namespace emulator::aclnn

// A view of device memory: `value` has the shape, the strides and the offset of the caller's
// tensor.
struct aclTensor {
  static constexpr auto kKind = emulator::aclnn::Kind::kTensor;
  emulator::aclnn::Kind kind = kKind;
  at::Tensor value;
  // The shape that the caller gave. An operator with an output as long as its data say
  // (aclnnNonzero) leaves another one, which aclGetViewShape reads.
  std::vector<int64_t> shape;
  std::vector<int64_t> storage_shape;
  void* storage = nullptr;
  aclFormat format = ACL_FORMAT_ND;
};

struct aclScalar {
  static constexpr auto kKind = emulator::aclnn::Kind::kScalar;
  emulator::aclnn::Kind kind = kKind;
  at::Scalar value;
};

struct aclIntArray {
  static constexpr auto kKind = emulator::aclnn::Kind::kInts;
  emulator::aclnn::Kind kind = kKind;
  std::vector<int64_t> values;
};

struct aclFloatArray {
  static constexpr auto kKind = emulator::aclnn::Kind::kFloats;
  emulator::aclnn::Kind kind = kKind;
  std::vector<float> values;
};

struct aclBoolArray {
  static constexpr auto kKind = emulator::aclnn::Kind::kBools;
  emulator::aclnn::Kind kind = kKind;
  std::unique_ptr<bool[]> values;
  uint64_t size = 0;
};

// The list owns its members, as CANN's does: aclDestroyTensorList destroys them.
struct aclTensorList {
  static constexpr auto kKind = emulator::aclnn::Kind::kTensors;
  emulator::aclnn::Kind kind = kKind;
  std::vector<aclTensor*> members;
  std::vector<at::Tensor> values;
};

struct aclScalarList {
  static constexpr auto kKind = emulator::aclnn::Kind::kScalars;
  emulator::aclnn::Kind kind = kKind;
  std::vector<aclScalar*> members;
  std::vector<at::Scalar> values;
};

namespace emulator::aclnn {

// How an operator uses one of its tensors.
enum class Use { kRead, kWritten, kUpdated, kPart };

struct Operand {
  aclTensor* tensor;
  Use use;
  uint64_t types;  // bits of the dtypes that are taken here
  int position;    // among the operator's arguments
};

}  // namespace emulator::aclnn

// What a GetWorkspaceSize hands to the launch: the checked operands and the computation.
struct aclOpExecutor {
  const emulator::aclnn::Operator* op;
  std::vector<emulator::aclnn::Operand> operands;
  std::function<void()> compute;
  std::string signature;
};

#endif  // ASCEND_EMULATOR_ACLNN_HANDLES_HPP_
