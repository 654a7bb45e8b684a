// torch_npu asks before most things whether a stream is being captured into a graph: it never is.

#include <acl/acl.h>

#include "emulator.hpp"
#include "runtime/errors.hpp"

extern "C" {

// Follows runtime@9.1.0 docs/03_api_ref/15_模型运行实例管理.md
EMULATOR_API aclError aclmdlRICaptureGetInfo(aclrtStream, aclmdlRICaptureStatus* status,
                                             aclmdlRI* modelRI) {
  if (status == nullptr) return emulator::invalid("aclmdlRICaptureGetInfo", "status is null");
  *status = ACL_MODEL_RI_CAPTURE_STATUS_NONE;
  if (modelRI != nullptr) *modelRI = nullptr;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclmdlRICaptureThreadExchangeMode(aclmdlRICaptureMode* mode) {
  static thread_local aclmdlRICaptureMode current = ACL_MODEL_RI_CAPTURE_MODE_GLOBAL;
  if (mode == nullptr)
    return emulator::invalid("aclmdlRICaptureThreadExchangeMode", "mode is null");
  const aclmdlRICaptureMode previous = current;
  current = *mode;
  *mode = previous;
  return ACL_SUCCESS;
}

}  // extern "C"
