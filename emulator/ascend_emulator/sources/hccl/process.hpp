// Who a process is, so that its death can be told from its being slow.

#ifndef ASCEND_EMULATOR_HCCL_PROCESS_HPP_
#define ASCEND_EMULATOR_HCCL_PROCESS_HPP_

#include <cstdint>

namespace hccl {

// The start time tells a process from a later one that was given the same id.
struct Process {
  int32_t pid;
  uint64_t start_time;  // clock ticks since boot
};

Process this_process();

// False when the process has ended, also where its parent has not yet collected it.
bool is_alive(const Process& process);

// Numbers of the namespaces that this process is in; 0 where /proc does not say.
uint64_t pid_namespace();
uint64_t network_namespace();

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_PROCESS_HPP_
