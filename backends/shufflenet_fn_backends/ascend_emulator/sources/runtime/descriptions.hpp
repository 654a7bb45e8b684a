// What is behind CANN's opaque arguments of the older operator interface.

#ifndef SHUFFLENET_FN_EMULATOR_RUNTIME_DESCRIPTIONS_HPP_
#define SHUFFLENET_FN_EMULATOR_RUNTIME_DESCRIPTIONS_HPP_

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

#endif  // SHUFFLENET_FN_EMULATOR_RUNTIME_DESCRIPTIONS_HPP_
