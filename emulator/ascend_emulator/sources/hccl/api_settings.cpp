// Settings under CANN's names, and what the emulator refuses by name.

#include <atomic>

#include "hccl/api.hpp"

namespace {

constexpr const char* kHere =
    "emulator/ascend_emulator/sources/hccl/api_settings.cpp";

using hccl::require;
using hccl::result;
using hccl::with_communicator;
using Shared = const std::shared_ptr<hccl::Communicator>&;

std::atomic<int32_t>& deterministic() {
  static std::atomic<int32_t>* const value = new std::atomic<int32_t>(0);
  return *value;
}

int check_setting(const char* name, HcclConfig config, int32_t value) {
  if (config != HCCL_DETERMINISTIC) {
    return emulator::fail(hccl::kNotSupported, "EI0003: " + std::string(name) + ": setting " +
                                                   std::to_string(config) +
                                                   " is not emulated; HCCL_DETERMINISTIC is");
  }
  if (value < 0 || value > 1) {
    return emulator::fail(hccl::kParameter, "EI0003: HCCL_DETERMINISTIC=" + std::to_string(value) +
                                                "; allowed are 0 and 1");
  }
  return hccl::kSuccess;
}

int unsupported(const char* symbol) {
  emulator::missing(symbol, kHere);
  return hccl::kNotSupported;
}

}  // namespace

extern "C" {

// Capabilities are numbered; all below the one returned are there.
// Follows pytorch@9e73e708 torch_npu/csrc/core/npu/interface/HcclInterface.cpp
EMULATOR_API uint32_t HcclGetCommConfigCapability() { return HCCL_COMM_CONFIG_RESERVED; }

// The emulator's reductions are always deterministic: kept to be read back.
// Follows pytorch@9e73e708 torch_npu/csrc/framework/OpParamMaker.cpp
EMULATOR_API HcclResult HcclSetConfig(HcclConfig config, HcclConfigValue configValue) {
  const int code = check_setting(__func__, config, configValue.value);
  if (code == hccl::kSuccess) deterministic() = configValue.value;
  return result(code);
}

EMULATOR_API HcclResult HcclGetConfig(HcclConfig config, HcclConfigValue* configValue) {
  int code = require(__func__, "the place for the value", configValue);
  if (code == hccl::kSuccess) code = check_setting(__func__, config, 0);
  if (code == hccl::kSuccess) configValue->value = deterministic();
  return result(code);
}

EMULATOR_API HcclResult HcclSetCommConfig(HcclComm comm, HcclConfig config,
                                          HcclConfigValue configValue) {
  const char* const name = __func__;
  return with_communicator(name, comm, [&](Shared shared) {
    const int code = check_setting(name, config, configValue.value);
    if (code == hccl::kSuccess) shared->deterministic = configValue.value;
    return code;
  });
}

EMULATOR_API HcclResult HcclGetCommConfig(HcclComm comm, HcclConfig config,
                                          HcclConfigValue* configValue) {
  const char* const name = __func__;
  return with_communicator(name, comm, [&](Shared shared) {
    int code = require(name, "the place for the value", configValue);
    if (code == hccl::kSuccess) code = check_setting(name, config, 0);
    if (code == hccl::kSuccess) configValue->value = shared->deterministic;
    return code;
  });
}

EMULATOR_API HcclResult HcclCommInitClusterInfo(const char*, uint32_t, HcclComm*) {
  return result(unsupported(__func__));
}

EMULATOR_API HcclResult HcclCommInitClusterInfoConfig(const char*, uint32_t, HcclCommConfig*,
                                                      HcclComm*) {
  return result(unsupported(__func__));
}

// Several devices of one process: torch_npu has a rank for each process.
EMULATOR_API HcclResult HcclCommInitAll(uint32_t, int32_t*, HcclComm*) {
  return result(unsupported(__func__));
}

EMULATOR_API HcclResult HcclCommWorkingDevNicSet(HcclComm, uint32_t*, bool*, uint32_t) {
  return result(unsupported(__func__));
}

// Memory that ranks map of each other (HCCL_ZERO_COPY, windows). The first two have no header.
EMULATOR_API int HcclCommSymWinRegister() { return unsupported(__func__); }
EMULATOR_API int HcclCommSymWinDeregister() { return unsupported(__func__); }

EMULATOR_API HcclResult HcclCommSetMemoryRange(HcclComm, void*, size_t, size_t, uint64_t) {
  return result(unsupported(__func__));
}

EMULATOR_API HcclResult HcclCommUnsetMemoryRange(HcclComm, void*) {
  return result(unsupported(__func__));
}

EMULATOR_API HcclResult HcclCommActivateCommMemory(HcclComm, void*, size_t, size_t,
                                                   aclrtDrvMemHandle, uint64_t) {
  return result(unsupported(__func__));
}

EMULATOR_API HcclResult HcclCommDeactivateCommMemory(HcclComm, void*) {
  return result(unsupported(__func__));
}

EMULATOR_API HcclResult HcclCommRegister(HcclComm, void*, uint64_t, void**, uint32_t) {
  return result(unsupported(__func__));
}

EMULATOR_API HcclResult HcclCommDeregister(HcclComm, void*) {
  return result(unsupported(__func__));
}

EMULATOR_API HcclResult HcclCommExchangeMem(HcclComm, void*, uint32_t*, uint32_t) {
  return result(unsupported(__func__));
}

}  // extern "C"
