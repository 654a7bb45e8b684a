// Sending from one rank to one other.
//
// A chip sends on the stream of that pair of ranks, beside what the other streams do; here all
// streams of a process are one thread. So a send does not wait for its receiver: it leaves the data
// in the shared file and goes on. What would deadlock on one stream of a chip may therefore pass.

#ifndef ASCEND_EMULATOR_HCCL_POINT_TO_POINT_HPP_
#define ASCEND_EMULATOR_HCCL_POINT_TO_POINT_HPP_

#include <cstdint>
#include <memory>
#include <vector>

#include "hccl/communicator.hpp"
#include "hccl/types.hpp"

namespace hccl {

struct Transfer {
  bool sends;
  void* buffer;
  uint64_t count;
  DataType dtype;
  uint32_t peer;
};

// `name` is what was called, for texts and counters. A Code.
int transfer(Communicator& comm, const char* name, const Transfer& transfer);

// All sends, then all receives; a receive from a rank takes what that rank sends in order. A Code.
int transfer_all(Communicator& comm, const char* name, const std::vector<Transfer>& transfers);

// Between the two, this thread's receives are put off to the end of the (outermost) group, so that
// ranks which send to each other in a group do not wait for each other.
int begin_group();
int end_group();

// As transfer(), or put off while in a group.
int transfer_or_defer(const std::shared_ptr<Communicator>& comm, const char* name,
                      const Transfer& transfer);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_POINT_TO_POINT_HPP_
