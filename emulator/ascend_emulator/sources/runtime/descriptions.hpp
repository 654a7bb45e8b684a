// What is behind CANN's opaque arguments of the older operator interface.

#ifndef ASCEND_EMULATOR_RUNTIME_DESCRIPTIONS_HPP_
#define ASCEND_EMULATOR_RUNTIME_DESCRIPTIONS_HPP_

#include <acl/acl.h>

#include <cstdint>
#include <string>
#include <vector>

struct aclTensorDesc {
  aclDataType type;
  aclFormat format;
  std::vector<int64_t> shape;
  std::string name;
};

struct aclDataBuffer {
  void* data;
  size_t bytes;
};

struct aclopAttr {};

#endif  // ASCEND_EMULATOR_RUNTIME_DESCRIPTIONS_HPP_
