// Initialization, devices and contexts.

#include "runtime/device.hpp"

#include <acl/acl.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "emulator.hpp"
#include "runtime/counters.hpp"
#include "runtime/errors.hpp"
#include "runtime/settings.hpp"

namespace emulator {
namespace {

struct Context {
  int32_t device;
};

constexpr int32_t kMostDevices = 64;
std::array<Context, kMostDevices>& primary_contexts() {
  static auto* const contexts = [] {
    auto* made = new std::array<Context, kMostDevices>;
    for (int32_t device = 0; device < kMostDevices; ++device) (*made)[device].device = device;
    return made;
  }();
  return *contexts;
}

std::atomic<bool> initialized{false};
// How often each device was set and not reset.
std::array<std::atomic<uint32_t>, kMostDevices> set_count{};
std::atomic<int32_t> assumed_device{-1};
thread_local Context* current = nullptr;

// The device that the configuration file gives to threads that set none: "default_device": "0".
int32_t configured_default(const char* path) {
  if (path == nullptr) return -1;
  std::ifstream file(path);
  std::stringstream stream;
  stream << file.rdbuf();
  const std::string text = stream.str();
  const std::string key = "\"default_device\"";
  const size_t at = text.find(key);
  if (at == std::string::npos) return -1;
  const size_t digit = text.find_first_of("0123456789", at + key.size());
  return digit == std::string::npos ? -1 : std::atoi(text.c_str() + digit);
}

}  // namespace

bool is_device(int32_t device) { return device >= 0 && device < device_count(); }

int no_such_device(const char* function, int32_t device) {
  return fail(ACL_ERROR_RT_INVALID_DEVICEID,
              std::string(function) + ": device " + std::to_string(device) + " does not exist; " +
                  (device_count() == 0 ? "there is none"
                                       : "devices are 0 to " + std::to_string(device_count() - 1)));
}

int no_context(const char* function) {
  return fail(ACL_ERROR_RT_CONTEXT_NULL,
              std::string(function) + ": this thread has no device; call aclrtSetDevice first");
}

int32_t current_device() {
  if (current != nullptr) return current->device;
  const int32_t device = assumed_device;
  return is_device(device) ? device : -1;
}

}  // namespace emulator

using emulator::current;

extern "C" {

// Follows runtime@9.1.0 docs/03_api_ref/02_初始化与去初始化.md
EMULATOR_API aclError aclInit(const char* configPath) {
  emulator::settings();
  if (emulator::initialized.exchange(true)) {
    return emulator::fail(ACL_ERROR_REPEAT_INITIALIZE, "aclInit was called before");
  }
  emulator::mark_used();
  emulator::assumed_device = emulator::configured_default(configPath);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/02_初始化与去初始化.md
EMULATOR_API aclError aclFinalize() {
  if (!emulator::initialized.exchange(false)) {
    return emulator::fail(ACL_ERROR_UNINITIALIZE, "aclFinalize without aclInit");
  }
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtGetDeviceCount(uint32_t* count) {
  if (count == nullptr) return emulator::invalid("aclrtGetDeviceCount", "count is null");
  *count = static_cast<uint32_t>(emulator::device_count());
  if (*count == 0) return emulator::fail(ACL_ERROR_RT_NO_DEVICE, "there is no device");
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtSetDevice(int32_t deviceId) {
  if (!emulator::is_device(deviceId)) return emulator::no_such_device("aclrtSetDevice", deviceId);
  if (emulator::fault("device", "busy")) {
    return emulator::fail(ACL_ERROR_RT_DEV_SETUP_ERROR,
                          "EL0005: Resource_Busy: The resources are busy: device " +
                              std::to_string(deviceId) + " is held by a process that was killed");
  }
  current = &emulator::primary_contexts()[deviceId];
  ++emulator::set_count[deviceId];
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtGetDevice(int32_t* deviceId) {
  if (deviceId == nullptr) return emulator::invalid("aclrtGetDevice", "deviceId is null");
  // CANN answers so before any device is set, and torch_npu asks then: no text, it is no fault.
  if (emulator::current_device() < 0) return ACL_ERROR_RT_CONTEXT_NULL;
  *deviceId = emulator::current_device();
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtResetDevice(int32_t deviceId) {
  if (!emulator::is_device(deviceId)) return emulator::no_such_device("aclrtResetDevice", deviceId);
  std::atomic<uint32_t>& count = emulator::set_count[deviceId];
  if (count > 0 && --count > 0) return ACL_SUCCESS;
  if (current != nullptr && current->device == deviceId) current = nullptr;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtResetDeviceForce(int32_t deviceId) {
  if (!emulator::is_device(deviceId)) {
    return emulator::no_such_device("aclrtResetDeviceForce", deviceId);
  }
  emulator::set_count[deviceId] = 1;
  return aclrtResetDevice(deviceId);
}

EMULATOR_API aclError aclrtCreateContext(aclrtContext* context, int32_t deviceId) {
  if (context == nullptr) return emulator::invalid("aclrtCreateContext", "context is null");
  if (!emulator::is_device(deviceId)) {
    return emulator::no_such_device("aclrtCreateContext", deviceId);
  }
  current = new emulator::Context{deviceId};
  *context = current;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtDestroyContext(aclrtContext context) {
  auto* given = static_cast<emulator::Context*>(context);
  auto& primary = emulator::primary_contexts();
  if (given == nullptr || (given >= primary.data() && given < primary.data() + primary.size())) {
    return emulator::invalid("aclrtDestroyContext", "not a context from aclrtCreateContext");
  }
  if (current == given) current = nullptr;
  delete given;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/05_Context管理.md
EMULATOR_API aclError aclrtSetCurrentContext(aclrtContext context) {
  if (context == nullptr) return emulator::invalid("aclrtSetCurrentContext", "context is null");
  current = static_cast<emulator::Context*>(context);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/05_Context管理.md
EMULATOR_API aclError aclrtGetCurrentContext(aclrtContext* context) {
  if (context == nullptr) return emulator::invalid("aclrtGetCurrentContext", "context is null");
  const int32_t device = emulator::current_device();
  if (device < 0) return ACL_ERROR_RT_CONTEXT_NULL;
  *context = current != nullptr ? current : &emulator::primary_contexts()[device];
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/05_Context管理.md
EMULATOR_API aclError aclrtGetPrimaryCtxState(int32_t deviceId, uint32_t* flags, int32_t* active) {
  if (!emulator::is_device(deviceId)) {
    return emulator::no_such_device("aclrtGetPrimaryCtxState", deviceId);
  }
  if (flags != nullptr) *flags = 0;
  if (active != nullptr) *active = emulator::set_count[deviceId] > 0;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtQueryDeviceStatus(int32_t deviceId, aclrtDeviceStatus* status) {
  if (status == nullptr) return emulator::invalid("aclrtQueryDeviceStatus", "status is null");
  if (!emulator::is_device(deviceId)) {
    return emulator::no_such_device("aclrtQueryDeviceStatus", deviceId);
  }
  *status = ACL_RT_DEVICE_STATUS_NORMAL;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtDeviceCanAccessPeer(int32_t* canAccessPeer, int32_t deviceId,
                                               int32_t peerDeviceId) {
  if (canAccessPeer == nullptr) {
    return emulator::invalid("aclrtDeviceCanAccessPeer", "canAccessPeer is null");
  }
  for (const int32_t device : {deviceId, peerDeviceId}) {
    if (!emulator::is_device(device)) {
      return emulator::no_such_device("aclrtDeviceCanAccessPeer", device);
    }
  }
  if (deviceId == peerDeviceId) {
    return emulator::invalid("aclrtDeviceCanAccessPeer", "both are the same device");
  }
  *canAccessPeer = 1;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtDeviceEnablePeerAccess(int32_t peerDeviceId, uint32_t flags) {
  if (!emulator::is_device(peerDeviceId)) {
    return emulator::no_such_device("aclrtDeviceEnablePeerAccess", peerDeviceId);
  }
  if (flags != 0 || peerDeviceId == emulator::current_device()) {
    return emulator::invalid("aclrtDeviceEnablePeerAccess",
                             flags != 0 ? "flags is not 0" : "that is the current device");
  }
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtDeviceDisablePeerAccess(int32_t peerDeviceId) {
  return aclrtDeviceEnablePeerAccess(peerDeviceId, 0);
}

EMULATOR_API aclError aclrtSetTsDevice(aclrtTsId) { return ACL_SUCCESS; }

EMULATOR_API aclError aclrtGetRunMode(aclrtRunMode* runMode) {
  if (runMode == nullptr) return emulator::invalid("aclrtGetRunMode", "runMode is null");
  *runMode = ACL_HOST;
  return ACL_SUCCESS;
}

}  // extern "C"
