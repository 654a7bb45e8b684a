#ifndef ASCEND_EMULATOR_RUNTIME_FLOAT_STATUS_HPP_
#define ASCEND_EMULATOR_RUNTIME_FLOAT_STATUS_HPP_

#include <acl/acl.h>

namespace emulator {

// Tensors of a launch: `number` descriptions and buffers.
struct Tensors {
  const aclTensorDesc* const* descriptions;
  const aclDataBuffer* const* buffers;
  int number;
};

// True for the operators that read and clear the float status register.
bool is_float_status(const char* operator_name);

aclError run_float_status(const char* operator_name, Tensors inputs, Tensors outputs);

}  // namespace emulator

#endif  // ASCEND_EMULATOR_RUNTIME_FLOAT_STATUS_HPP_
