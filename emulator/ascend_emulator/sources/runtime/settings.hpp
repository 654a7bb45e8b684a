// What the environment asks the emulator to be. Read once, at the first call of any CANN function.

#ifndef ASCEND_EMULATOR_RUNTIME_SETTINGS_HPP_
#define ASCEND_EMULATOR_RUNTIME_SETTINGS_HPP_

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/soc.hpp"

namespace emulator {

struct FaultRequest {
  std::string kind;
  std::string name;  // empty: any
  uint64_t nth;      // from 1
  int32_t rank;      // -1: any
};

struct Settings {
  std::vector<int32_t> visible;  // physical ids, after ASCEND_RT_VISIBLE_DEVICES
  uint64_t memory;               // bytes of each device
  Soc soc;
  std::vector<FaultRequest> faults;
  std::string report;  // path, {pid} replaced; empty: none
};

// Ends the process with a message when a variable holds nonsense: a run under settings other than
// those asked for would prove nothing.
const Settings& settings();

}  // namespace emulator

#endif  // ASCEND_EMULATOR_RUNTIME_SETTINGS_HPP_
