// The float status register of each device, and what happens to results that do not fit float16.

#include <acl/acl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "emulator.hpp"
#include "runtime/errors.hpp"

namespace emulator {
namespace {

std::array<std::atomic<bool>, 64> flags;
std::atomic<int> mode{ACL_RT_OVERFLOW_MODE_INFNAN};

std::atomic<bool>& flag() { return flags[std::max(current_device(), 0)]; }

}  // namespace

void flag_overflow() { flag() = true; }
bool overflow_flagged() { return flag(); }
void clear_overflow() { flag() = false; }

// The 910A class knows no other mode.
bool saturates() { return soc_class() == k910A || mode == ACL_RT_OVERFLOW_MODE_SATURATION; }

namespace {

// The register is eight 32-bit words; the first says whether there was an overflow.
aclError write_status(const char* function, void* output, uint64_t bytes) {
  if (output == nullptr || bytes < sizeof(int32_t)) {
    return invalid(function, "the output is null or has no room for the status");
  }
  const int32_t status = overflow_flagged() ? 1 : 0;
  std::memset(output, 0, bytes);
  std::memcpy(output, &status, sizeof(status));
  return ACL_SUCCESS;
}

}  // namespace
}  // namespace emulator

extern "C" {

// On a chip it holds for streams that are made later; torch_npu makes none before.
// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) {
  if (mode != ACL_RT_OVERFLOW_MODE_SATURATION && mode != ACL_RT_OVERFLOW_MODE_INFNAN) {
    return emulator::invalid("aclrtSetDeviceSatMode", "the mode is neither saturation nor inf/nan");
  }
  emulator::mode = mode;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtGetDeviceSatMode(aclrtFloatOverflowMode* mode) {
  if (mode == nullptr) return emulator::invalid("aclrtGetDeviceSatMode", "mode is null");
  *mode = emulator::saturates() ? ACL_RT_OVERFLOW_MODE_SATURATION : ACL_RT_OVERFLOW_MODE_INFNAN;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtGetOverflowStatus(void* outputAddr, size_t outputSize, aclrtStream) {
  return emulator::write_status("aclrtGetOverflowStatus", outputAddr, outputSize);
}

EMULATOR_API aclError aclrtGetFloatOverflowStatus(void* outputAddr, uint64_t outputSize,
                                                  aclrtStream) {
  return emulator::write_status("aclrtGetFloatOverflowStatus", outputAddr, outputSize);
}

EMULATOR_API aclError aclrtResetOverflowStatus(aclrtStream) {
  emulator::clear_overflow();
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtResetFloatOverflowStatus(aclrtStream stream) {
  return aclrtResetOverflowStatus(stream);
}

}  // extern "C"
