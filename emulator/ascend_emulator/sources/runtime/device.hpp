#ifndef ASCEND_EMULATOR_RUNTIME_DEVICE_HPP_
#define ASCEND_EMULATOR_RUNTIME_DEVICE_HPP_

#include <cstdint>

namespace emulator {

// True for 0 <= device < device_count().
bool is_device(int32_t device);

// Records the error that CANN gives for a device that is not there, and returns its code.
int no_such_device(const char* function, int32_t device);

// Records the error for a thread that has no device, and returns its code.
int no_context(const char* function);

}  // namespace emulator

#endif  // ASCEND_EMULATOR_RUNTIME_DEVICE_HPP_
