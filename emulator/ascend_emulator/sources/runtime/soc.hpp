// The chips that can be emulated.

#ifndef ASCEND_EMULATOR_RUNTIME_SOC_HPP_
#define ASCEND_EMULATOR_RUNTIME_SOC_HPP_

#include <cstdint>
#include <string>

namespace emulator {

struct Soc {
  const char* name;
  int soc_class;  // emulator::SocClass
  int64_t cube_cores;
  int64_t vector_cores;
  uint64_t l2_bytes;
  uint64_t memory_bytes;
};

// nullptr when there is no such chip.
const Soc* find_soc(const std::string& name);
// For messages: the names, separated by commas.
std::string soc_names();

}  // namespace emulator

#endif  // ASCEND_EMULATOR_RUNTIME_SOC_HPP_
