#ifndef ASCEND_EMULATOR_RUNTIME_ERRORS_HPP_
#define ASCEND_EMULATOR_RUNTIME_ERRORS_HPP_

#include <string>

namespace emulator {

// Records "<function>: <what>" and returns ACL_ERROR_RT_PARAM_INVALID.
int invalid(const char* function, const std::string& what);

// Forgets failures of this kind on the calling thread: what failed has now been done. Without it
// torch_npu takes the next failure of any kind for another out-of-memory, by the old text.
void recovered(int code);

}  // namespace emulator

#endif  // ASCEND_EMULATOR_RUNTIME_ERRORS_HPP_
