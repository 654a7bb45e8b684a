// One collective as a sequence of rounds: in each, every rank writes into its own buffer, waits
// until all have, and reads theirs.
//
// A rank has two buffers, used in turn, so that a round needs one wait and not two: who has reached
// round n has read what was written in round n - 1, and its other buffer is free.

#ifndef ASCEND_EMULATOR_HCCL_EXCHANGE_HPP_
#define ASCEND_EMULATOR_HCCL_EXCHANGE_HPP_

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "hccl/communicator.hpp"

namespace hccl {

// What a rank sends to each rank and receives from each, in elements; empty where the call has one
// count for all.
struct Counts {
  std::vector<uint64_t> sends, receives;
};

class Exchange {
 public:
  // Holds the communicator's collective lock as long as it lives.
  Exchange(Communicator& comm, const Call& call)
      : comm_(comm), guard_(comm.collective_lock), call_(call), deadline_(comm.exec_timeout()) {}

  // The first round: all ranks tell what they call, and fail, all with the same text, unless it is
  // the same on all of them and what one sends is what the other receives.
  int start(const Counts& counts = {});

  // After start(): the most that any rank sends to any, in elements; the largest of `own` where no
  // counts were posted, since then they are equal on all ranks.
  uint64_t largest(const std::vector<uint64_t>& own) const;

  // Where this rank writes for the round that sync() completes, and how much fits.
  uint8_t* own() const { return comm_.slot(comm_.rank(), comm_.next_round); }
  uint64_t capacity() const { return comm_.layout().slot_bytes; }
  int sync();
  // After sync(): what a rank wrote for that round, valid until the next sync().
  const uint8_t* of(uint32_t rank) const { return comm_.slot(rank, comm_.next_round - 1); }

 private:
  int compare(uint32_t round) const;
  int compare_counts(uint32_t round);
  std::string what() const;

  Communicator& comm_;
  const std::lock_guard<std::mutex> guard_;
  const Call call_;
  const Deadline deadline_;
  uint64_t largest_ = 0;  // of the counts posted
  bool counted_ = false;
};

// A call as one reads it: "HcclAllReduce(float32 x 100, sum)".
std::string describe(const Call& call);

// Kills or hangs this process if ASCEND_EMULATOR_FAULTS asks for it at this call, which
// counts as one; a Code.
int inject_faults(Communicator& comm, const char* name);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_EXCHANGE_HPP_
