#include "runtime/soc.hpp"

#include "emulator.hpp"

namespace emulator {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

// Cores, L2 and memory from the platform_config files of CANN's open runtime; they name no memory
// size for the 910A class and for B2C, whose product pages say 32 and 64 GiB. "Ascend910B" without
// a number is an old name inside the 910A class. The names are those that torch_npu knows.
constexpr Soc kSocs[] = {
    {"Ascend910A", k910A, 32, 0, 32 * kMiB, 32 * kGiB},
    {"Ascend910ProA", k910A, 32, 0, 32 * kMiB, 32 * kGiB},
    {"Ascend910PremiumA", k910A, 32, 0, 32 * kMiB, 32 * kGiB},
    {"Ascend910B", k910A, 30, 0, 32 * kMiB, 32 * kGiB},
    {"Ascend910ProB", k910A, 30, 0, 32 * kMiB, 32 * kGiB},
    {"Ascend910B1", k910B, 24, 48, 192 * kMiB, 64 * kGiB},
    {"Ascend910B2", k910B, 24, 48, 192 * kMiB, 64 * kGiB},
    {"Ascend910B2C", k910B, 24, 48, 192 * kMiB, 64 * kGiB},
    {"Ascend910B3", k910B, 20, 40, 192 * kMiB, 64 * kGiB},
    {"Ascend910B4", k910B, 20, 40, 96 * kMiB, 32 * kGiB},
    {"Ascend910B4-1", k910B, 20, 40, 168 * kMiB, 32 * kGiB},
    {"Ascend910_9362", k910B, 20, 40, 168 * kMiB, 64 * kGiB},
    {"Ascend910_9372", k910B, 20, 40, 192 * kMiB, 64 * kGiB},
    {"Ascend910_9381", k910B, 24, 48, 192 * kMiB, 64 * kGiB},
    {"Ascend910_9382", k910B, 24, 48, 192 * kMiB, 64 * kGiB},
    {"Ascend910_9391", k910B, 24, 48, 192 * kMiB, 64 * kGiB},
    {"Ascend910_9392", k910B, 24, 48, 192 * kMiB, 64 * kGiB},
    {"Ascend950PR_9589", k950, 32, 64, 128 * kMiB, 128 * kGiB},
};

}  // namespace

const Soc* find_soc(const std::string& name) {
  for (const Soc& soc : kSocs) {
    if (name == soc.name) return &soc;
  }
  return nullptr;
}

std::string soc_names() {
  std::string names;
  for (const Soc& soc : kSocs) names += (names.empty() ? "" : ", ") + std::string(soc.name);
  return names;
}

}  // namespace emulator
