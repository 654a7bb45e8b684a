#ifndef SHUFFLENET_FN_EMULATOR_RUNTIME_ERRORS_HPP_
#define SHUFFLENET_FN_EMULATOR_RUNTIME_ERRORS_HPP_

#include <string>

namespace emulator {

// Records "<function>: <what>" and returns ACL_ERROR_RT_PARAM_INVALID.
int invalid(const char* function, const std::string& what);

}  // namespace emulator

#endif  // SHUFFLENET_FN_EMULATOR_RUNTIME_ERRORS_HPP_
