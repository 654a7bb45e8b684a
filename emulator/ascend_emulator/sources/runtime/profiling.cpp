// The profiler's interface: accepted, and nothing recorded. A profile taken here holds what
// torch_npu sees on the host; times of the device would mean nothing.

#include <acl/acl_prof.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "emulator.hpp"

extern "C" {

EMULATOR_API aclError aclprofInit(const char*, size_t) { return ACL_SUCCESS; }

EMULATOR_API aclError aclprofFinalize() { return ACL_SUCCESS; }

EMULATOR_API aclError aclprofStart(const aclprofConfig*) { return ACL_SUCCESS; }

EMULATOR_API aclError aclprofStop(const aclprofConfig*) { return ACL_SUCCESS; }

EMULATOR_API aclError aclprofWarmup(const aclprofConfig*) { return ACL_SUCCESS; }

EMULATOR_API aclprofConfig* aclprofCreateConfig(uint32_t*, uint32_t, aclprofAicoreMetrics,
                                                const aclprofAicoreEvents*, uint64_t) {
  return reinterpret_cast<aclprofConfig*>(new char);
}

EMULATOR_API aclError aclprofDestroyConfig(const aclprofConfig* config) {
  delete reinterpret_cast<const char*>(config);
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclprofSetConfig(aclprofConfigType, const char*, size_t) {
  return ACL_SUCCESS;
}

EMULATOR_API aclprofStepInfo* aclprofCreateStepInfo() {
  return reinterpret_cast<aclprofStepInfo*>(new char);
}

EMULATOR_API void aclprofDestroyStepInfo(aclprofStepInfo* info) {
  delete reinterpret_cast<char*>(info);
}

EMULATOR_API aclError aclprofGetStepTimestamp(aclprofStepInfo*, aclprofStepTag, aclrtStream) {
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclprofMarkEx(const char*, size_t, aclrtStream) { return ACL_SUCCESS; }

// The reporting side, which torch_npu's operators call while a profile is taken. The prototypes are
// in profiling/aprof_pub.h and prof_api.h, whose types are not needed to drop what comes.
EMULATOR_API int32_t MsprofRegisterCallback(uint32_t, void*) { return 0; }

EMULATOR_API int32_t MsprofReportApi(uint32_t, const void*) { return 0; }

EMULATOR_API int32_t MsprofReportCompactInfo(uint32_t, const void*, uint32_t) { return 0; }

EMULATOR_API int32_t MsprofReportAdditionalInfo(uint32_t, const void*, uint32_t) { return 0; }

EMULATOR_API uint64_t MsprofGetHashId(const char* text, size_t length) {
  return std::hash<std::string_view>{}(std::string_view(text, length));
}

// The driver, which the profiler asks for the frequency of the chip's counter: an old one without
// it, so that torch_npu takes the host's clock.
EMULATOR_API int halGetAPIVersion(int* version) {
  *version = 0;
  return 0;
}

EMULATOR_API int halGetDeviceInfo(uint32_t, int32_t, int32_t, int64_t*) {
  return ACL_ERROR_FEATURE_UNSUPPORTED;
}

EMULATOR_API uint64_t MsprofSysCycleTime() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

}  // extern "C"
