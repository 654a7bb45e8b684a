// What the chip is and can, and which versions answer.

#include <acl/acl.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>

#include "emulator.hpp"
#include "runtime/device.hpp"
#include "runtime/errors.hpp"
#include "runtime/settings.hpp"

namespace emulator {
namespace {

// The CANN release that torch_npu's table of versions pairs with its 2.12; 2.13 has no row yet.
constexpr const char* kVersion[] = {"9", "1", "0"};

std::string version_text() {
  return std::string(kVersion[0]) + "." + kVersion[1] + "." + kVersion[2];
}

void put(char* field, size_t room, const std::string& text) {
  std::snprintf(field, room, "%s", text.c_str());
}

// 1 where the attribute holds. Just-in-time compilation is the default of the 910A class only.
int32_t attribute(aclCannAttr name) {
  switch (name) {
    case ACL_CANN_ATTR_INF_NAN:
    case ACL_CANN_ATTR_BF16:
      return soc_class() == k910B;
    case ACL_CANN_ATTR_JIT_COMPILE:
      return 1;
    default:
      return -1;
  }
}

// nullptr when there is no such option.
std::atomic<int64_t>* option(aclSysParamOpt name) {
  static std::atomic<int64_t> values[4];
  const auto index = static_cast<size_t>(name);
  return index < std::size(values) ? &values[index] : nullptr;
}

}  // namespace
}  // namespace emulator

extern "C" {

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API const char* aclrtGetSocName() { return emulator::soc_name(); }

EMULATOR_API aclError aclrtGetVersion(int32_t* majorVersion, int32_t* minorVersion,
                                      int32_t* patchVersion) {
  if (majorVersion == nullptr || minorVersion == nullptr || patchVersion == nullptr) {
    return emulator::invalid("aclrtGetVersion", "a version is null");
  }
  // The version of the interface, which the headers give, not of the release.
#ifdef ACL_MAJOR_VERSION
  *majorVersion = ACL_MAJOR_VERSION;
  *minorVersion = ACL_MINOR_VERSION;
  *patchVersion = ACL_PATCH_VERSION;
#else
  *majorVersion = *minorVersion = *patchVersion = 1;
#endif
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/24_其他接口.md
EMULATOR_API aclError aclsysGetCANNVersion(aclCANNPackageName, aclCANNPackageVersion* version) {
  if (version == nullptr) return emulator::invalid("aclsysGetCANNVersion", "version is null");
  *version = aclCANNPackageVersion{};
  emulator::put(version->version, sizeof(version->version), emulator::version_text());
  emulator::put(version->majorVersion, sizeof(version->majorVersion), emulator::kVersion[0]);
  emulator::put(version->minorVersion, sizeof(version->minorVersion), emulator::kVersion[1]);
  emulator::put(version->releaseVersion, sizeof(version->releaseVersion), emulator::kVersion[2]);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/24_其他接口.md
EMULATOR_API aclError aclsysGetVersionStr(char* pkgName, char* versionStr) {
  if (pkgName == nullptr || versionStr == nullptr) {
    return emulator::invalid("aclsysGetVersionStr", "pkgName or versionStr is null");
  }
  std::strcpy(versionStr, emulator::version_text().c_str());
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclGetCannAttributeList(const aclCannAttr** cannAttrList, size_t* num) {
  static const aclCannAttr all[] = {ACL_CANN_ATTR_INF_NAN, ACL_CANN_ATTR_BF16,
                                    ACL_CANN_ATTR_JIT_COMPILE};
  if (cannAttrList == nullptr || num == nullptr) {
    return emulator::invalid("aclGetCannAttributeList", "cannAttrList or num is null");
  }
  *cannAttrList = all;
  *num = sizeof(all) / sizeof(all[0]);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/24_其他接口.md
EMULATOR_API aclError aclGetCannAttribute(aclCannAttr cannAttr, int32_t* value) {
  if (value == nullptr) return emulator::invalid("aclGetCannAttribute", "value is null");
  const int32_t answer = emulator::attribute(cannAttr);
  if (answer < 0) return emulator::invalid("aclGetCannAttribute", "no such attribute");
  *value = answer;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/24_其他接口.md
EMULATOR_API aclError aclGetDeviceCapability(uint32_t deviceId, aclDeviceInfo deviceInfo,
                                             int64_t* value) {
  if (value == nullptr) return emulator::invalid("aclGetDeviceCapability", "value is null");
  if (!emulator::is_device(static_cast<int32_t>(deviceId))) {
    return emulator::no_such_device("aclGetDeviceCapability", static_cast<int32_t>(deviceId));
  }
  const emulator::Soc& soc = emulator::settings().soc;
  switch (deviceInfo) {
    case ACL_DEVICE_INFO_AI_CORE_NUM:
      *value = soc.cube_cores;
      return ACL_SUCCESS;
    case ACL_DEVICE_INFO_VECTOR_CORE_NUM:
      *value = soc.vector_cores;
      return ACL_SUCCESS;
    case ACL_DEVICE_INFO_L2_SIZE:
      *value = static_cast<int64_t>(soc.l2_bytes);
      return ACL_SUCCESS;
    default:
      return emulator::invalid("aclGetDeviceCapability",
                               "no such capability: " + std::to_string(deviceInfo));
  }
}

EMULATOR_API aclError aclrtGetDeviceInfo(uint32_t deviceId, aclrtDevAttr attr, int64_t* value) {
  if (value == nullptr) return emulator::invalid("aclrtGetDeviceInfo", "value is null");
  if (!emulator::is_device(static_cast<int32_t>(deviceId))) {
    return emulator::no_such_device("aclrtGetDeviceInfo", static_cast<int32_t>(deviceId));
  }
  const emulator::Soc& soc = emulator::settings().soc;
  switch (attr) {
    case ACL_DEV_ATTR_AICPU_CORE_NUM:
      *value = 6;
      return ACL_SUCCESS;
    case ACL_DEV_ATTR_AICORE_CORE_NUM:
    case ACL_DEV_ATTR_CUBE_CORE_NUM:
      *value = soc.cube_cores;
      return ACL_SUCCESS;
    case ACL_DEV_ATTR_VECTOR_CORE_NUM:
      *value = soc.vector_cores;
      return ACL_SUCCESS;
    case ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE:
      *value = static_cast<int64_t>(emulator::settings().memory);
      return ACL_SUCCESS;
    case ACL_DEV_ATTR_L2_CACHE_SIZE:
      *value = static_cast<int64_t>(soc.l2_bytes);
      return ACL_SUCCESS;
    case ACL_DEV_ATTR_PHY_CHIP_ID:
      *value = emulator::settings().visible[deviceId];
      return ACL_SUCCESS;
    default:
      return emulator::fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
                            "aclrtGetDeviceInfo: attribute " + std::to_string(attr) +
                                " is not emulated; add it in sources/runtime/info.cpp");
  }
}

EMULATOR_API aclError aclrtGetDeviceUtilizationRate(int32_t deviceId, aclrtUtilizationInfo* info) {
  if (info == nullptr) return emulator::invalid("aclrtGetDeviceUtilizationRate", "info is null");
  if (!emulator::is_device(deviceId)) {
    return emulator::no_such_device("aclrtGetDeviceUtilizationRate", deviceId);
  }
  *info = aclrtUtilizationInfo{};
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtGetLogicDevIdByUserDevId(const int32_t userDevid,
                                                    int32_t* const logicDevId) {
  if (logicDevId == nullptr) {
    return emulator::invalid("aclrtGetLogicDevIdByUserDevId", "logicDevId is null");
  }
  if (!emulator::is_device(userDevid)) {
    return emulator::no_such_device("aclrtGetLogicDevIdByUserDevId", userDevid);
  }
  *logicDevId = emulator::settings().visible[userDevid];
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtDeviceGetUuid(int32_t deviceId, aclrtUuid* uuid) {
  if (uuid == nullptr) return emulator::invalid("aclrtDeviceGetUuid", "uuid is null");
  if (!emulator::is_device(deviceId)) {
    return emulator::no_such_device("aclrtDeviceGetUuid", deviceId);
  }
  const int32_t physical = emulator::settings().visible[deviceId];
  std::memcpy(uuid->bytes, "emulated-cann-", 14);
  uuid->bytes[14] = static_cast<char>('0' + physical / 10);
  uuid->bytes[15] = static_cast<char>('0' + physical % 10);
  return ACL_SUCCESS;
}

// CANN keeps these for the process and for each context. torch_npu sets both alike before operators
// that shall be deterministic, and asks back.
// Follows runtime@9.1.0 docs/03_api_ref/03_运行时配置.md
EMULATOR_API aclError aclrtSetSysParamOpt(aclSysParamOpt opt, int64_t value) {
  std::atomic<int64_t>* option = emulator::option(opt);
  if (option == nullptr) return emulator::invalid("aclrtSetSysParamOpt", "no such option");
  *option = value;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/03_运行时配置.md
EMULATOR_API aclError aclrtGetSysParamOpt(aclSysParamOpt opt, int64_t* value) {
  std::atomic<int64_t>* option = emulator::option(opt);
  if (option == nullptr || value == nullptr) {
    return emulator::invalid("aclrtGetSysParamOpt", "no such option, or value is null");
  }
  *value = *option;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/05_Context管理.md
EMULATOR_API aclError aclrtCtxSetSysParamOpt(aclSysParamOpt opt, int64_t value) {
  return aclrtSetSysParamOpt(opt, value);
}

EMULATOR_API aclError aclrtCtxGetSysParamOpt(aclSysParamOpt opt, int64_t* value) {
  return aclrtGetSysParamOpt(opt, value);
}

}  // extern "C"
