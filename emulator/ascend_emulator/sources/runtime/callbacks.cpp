// Host functions that a stream is asked to call: called at once, since the stream is always idle.

#include <acl/acl.h>

#include <chrono>
#include <thread>

#include "emulator.hpp"
#include "runtime/errors.hpp"

extern "C" {

EMULATOR_API aclError aclrtSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }

EMULATOR_API aclError aclrtUnSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }

EMULATOR_API aclError aclrtLaunchCallback(aclrtCallback fn, void* userData, aclrtCallbackBlockType,
                                          aclrtStream) {
  if (fn == nullptr) return emulator::invalid("aclrtLaunchCallback", "fn is null");
  fn(userData);
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtLaunchHostFunc(aclrtStream, aclrtHostFunc fn, void* args) {
  if (fn == nullptr) return emulator::invalid("aclrtLaunchHostFunc", "fn is null");
  fn(args);
  return ACL_SUCCESS;
}

// A thread that serves callbacks asks in a loop: there is never one left, and it must not spin.
EMULATOR_API aclError aclrtProcessReport(int32_t timeout) {
  std::this_thread::sleep_for(std::chrono::milliseconds(timeout < 0 ? 100 : timeout));
  return ACL_ERROR_RT_REPORT_TIMEOUT;
}

EMULATOR_API aclError aclrtSetExceptionInfoCallback(aclrtExceptionInfoCallback) {
  return ACL_SUCCESS;
}

}  // extern "C"
