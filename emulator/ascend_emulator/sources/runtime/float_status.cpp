// The operators behind torch_npu's npu_get_float_status and npu_clear_float_status, which have only
// an aclop form (op-plugin, FloatStatusKernelNpu.cpp). On the 910A class torch_npu reads the status
// from the input, which the operator fills; on the 910B class, from the output.

#include "runtime/float_status.hpp"

#include <cstdint>
#include <cstring>
#include <string>

#include "emulator.hpp"
#include "runtime/descriptions.hpp"
#include "runtime/errors.hpp"

namespace emulator {
namespace {

// Eight words, the first of which is not zero after an overflow.
aclError fill(const char* operator_name, Tensors tensors, bool flagged) {
  for (int i = 0; i < tensors.number; ++i) {
    const aclDataBuffer& buffer = *tensors.buffers[i];
    const aclDataType type = tensors.descriptions[i]->type;
    if ((type != ACL_FLOAT && type != ACL_INT32) || buffer.bytes < sizeof(float)) {
      return invalid(operator_name, "the status is neither float32 nor int32, or empty");
    }
    if (!within_allocation(buffer.data, buffer.bytes)) {
      return invalid(operator_name, "the status is not in a device's memory");
    }
    std::memset(buffer.data, 0, buffer.bytes);
    const float as_float = flagged ? 1.0f : 0.0f;
    const int32_t as_int = flagged ? 1 : 0;
    if (type == ACL_FLOAT) {
      std::memcpy(buffer.data, &as_float, sizeof(as_float));
    } else {
      std::memcpy(buffer.data, &as_int, sizeof(as_int));
    }
  }
  return ACL_SUCCESS;
}

uint64_t bytes(Tensors tensors) {
  uint64_t sum = 0;
  for (int i = 0; i < tensors.number; ++i) sum += tensors.buffers[i]->bytes;
  return sum;
}

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

}  // namespace

bool is_float_status(const char* operator_name) {
  const std::string name = operator_name;
  return name == "NPUAllocFloatStatus" || name == "NPUGetFloatStatus" ||
         name == "NPUGetFloatStatusV2" || name == "NPUClearFloatStatus" ||
         name == "NPUClearFloatStatusV2";
}

aclError run_float_status(const char* operator_name, Tensors inputs, Tensors outputs) {
  if (starts_with(operator_name, "NPUClear")) clear_overflow();
  const bool flagged = starts_with(operator_name, "NPUGet") && overflow_flagged();
  aclError error = fill(operator_name, inputs, flagged);
  if (error == ACL_SUCCESS) error = fill(operator_name, outputs, flagged);
  if (error == ACL_SUCCESS) kernel(operator_name, bytes(inputs), bytes(outputs));
  return error;
}

}  // namespace emulator
