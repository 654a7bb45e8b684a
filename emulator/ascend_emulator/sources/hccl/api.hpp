// What the files with CANN's own functions share.

#ifndef ASCEND_EMULATOR_HCCL_API_HPP_
#define ASCEND_EMULATOR_HCCL_API_HPP_

#include <third_party/hccl/inc/hccl/hccl.h>

#include <memory>
#include <string>

#include "emulator.hpp"
#include "hccl/handles.hpp"

namespace hccl {

inline HcclResult result(int code) { return static_cast<HcclResult>(code); }

// Looks the communicator up and calls `body` with it.
template <typename Body>
HcclResult with_communicator(const char* name, HcclComm handle, Body body) {
  std::shared_ptr<Communicator> comm;
  if (const int code = look_up(name, handle, &comm)) return result(code);
  return result(body(comm));
}

inline int require(const char* name, const char* what, const void* pointer) {
  if (pointer != nullptr) return kSuccess;
  return emulator::fail(kPointer, "EI0003: " + std::string(name) + ": " + what + " is null");
}

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_API_HPP_
