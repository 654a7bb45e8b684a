// From the pointers that a caller holds to communicators.

#ifndef ASCEND_EMULATOR_HCCL_HANDLES_HPP_
#define ASCEND_EMULATOR_HCCL_HANDLES_HPP_

#include <memory>

#include "hccl/communicator.hpp"

namespace hccl {

// Keeps the communicator until forget(), and gives what the caller is to hold.
void* keep(std::shared_ptr<Communicator> comm);

// The communicator of a handle, which stays alive while the caller has it, even if another thread
// destroys it meanwhile. A Code; `name` is the function that was called.
int look_up(const char* name, void* handle, std::shared_ptr<Communicator>* comm);

// Leaves the communicator and drops the handle. A Code.
int forget(const char* name, void* handle);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_HANDLES_HPP_
