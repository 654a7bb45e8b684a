#include "hccl/buffers.hpp"

#include "emulator.hpp"

namespace hccl {

int check_dtype(Communicator& comm, const char* name, DataType dtype) {
  if (can_move(dtype)) return kSuccess;
  return comm.fail(kNotSupported, "EI0003: " + std::string(name) + " does not take " +
                                      name_of(dtype) + " on " + emulator::soc_name());
}

int check_reduction(Communicator& comm, const char* name, DataType dtype, ReduceOp op) {
  if (can_reduce(dtype, op)) return kSuccess;
  return comm.fail(kNotSupported, "EI0003: " + std::string(name) + " with " + name_of(op) +
                                      " does not take " + name_of(dtype) + " on " +
                                      emulator::soc_name() + "; it takes " + reducible(op));
}

int check_buffer(Communicator& comm, const char* name, const char* what, const void* buffer,
                 uint64_t count, DataType dtype) {
  const uint64_t bytes = count * size_of(dtype);
  if (bytes == 0) return kSuccess;
  const std::string about = std::string(name) + ": the " + what + " buffer";
  if (buffer == nullptr) return comm.fail(kPointer, "EI0003: " + about + " is null");
  if (emulator::owner(buffer) < 0) {
    return comm.fail(kParameter, "EI0003: " + about + " is host memory; it must be on the device");
  }
  if (emulator::within_allocation(buffer, bytes)) return kSuccess;
  return comm.fail(kParameter, "EI0003: " + about + " ends before the " + std::to_string(count) +
                                   " elements of " + name_of(dtype) + " that the call says");
}

int check_root(Communicator& comm, const char* name, uint32_t root) {
  if (root < comm.size()) return kSuccess;
  return comm.fail(kParameter, "EI0003: " + std::string(name) + ": root " + std::to_string(root) +
                                   " is not one of the " + std::to_string(comm.size()) + " ranks");
}

}  // namespace hccl
