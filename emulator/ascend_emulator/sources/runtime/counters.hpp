// What the runtime itself counts, beside what emulator.hpp offers to operators and collectives.

#ifndef ASCEND_EMULATOR_RUNTIME_COUNTERS_HPP_
#define ASCEND_EMULATOR_RUNTIME_COUNTERS_HPP_

#include <cstdint>
#include <string>

namespace emulator {

// A copy to the host that blocks: a wait only where the device has had work since the last wait.
void blocking_copy_to_host(const char* what);

// aclInit was called: a process that never did has nothing to report.
void mark_used();

// {"pid": ..., "devices": {"0": {"kernels": {...}, "syncs": {...}, "copies": {...}, ...}}}
std::string counters_json();
void reset_counters();

int32_t rank();

}  // namespace emulator

#endif  // ASCEND_EMULATOR_RUNTIME_COUNTERS_HPP_
