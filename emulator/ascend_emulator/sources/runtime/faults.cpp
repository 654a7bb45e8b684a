// Failures on request: the n-th event of a kind.

#include <atomic>
#include <cstdlib>

#include "emulator.hpp"
#include "runtime/counters.hpp"
#include "runtime/settings.hpp"

namespace emulator {
namespace {

std::atomic<int32_t>& rank_of_process() {
  static std::atomic<int32_t>* const value = [] {
    const char* text = std::getenv("RANK");
    return new std::atomic<int32_t>(text == nullptr ? 0 : std::atoi(text));
  }();
  return *value;
}

}  // namespace

int32_t rank() { return rank_of_process(); }

void set_rank(int32_t rank) { rank_of_process() = rank; }

bool fault(const char* kind, const char* name) {
  const std::vector<FaultRequest>& requests = settings().faults;
  if (requests.empty()) return false;
  static std::atomic<uint64_t>* const seen = new std::atomic<uint64_t>[requests.size()]();
  bool fails = false;
  for (size_t i = 0; i < requests.size(); ++i) {
    const FaultRequest& request = requests[i];
    if (request.kind != kind || (!request.name.empty() && request.name != name)) continue;
    if (request.rank >= 0 && request.rank != rank()) continue;
    if (++seen[i] == request.nth) fails = true;
  }
  if (fails) {
    warn("fault injected: " + std::string(kind) + " " + name + " in rank " +
         std::to_string(rank()));
  }
  return fails;
}

uint64_t start_of_ranks() {
  const char* restarts = std::getenv("TORCHELASTIC_RESTART_COUNT");
  return 1 + (restarts == nullptr ? 0 : std::strtoull(restarts, nullptr, 10));
}

bool busy_start() {
  for (const FaultRequest& request : settings().faults) {
    if (request.kind != "hccl" || request.name != "busy") continue;
    if (request.rank >= 0 && request.rank != rank()) continue;
    if (request.nth == start_of_ranks()) return true;
  }
  return false;
}

}  // namespace emulator
