#include "hccl/exchange.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "emulator.hpp"

namespace hccl {

std::string describe(const Call& call) {
  std::string text = std::string(call.name) + "(" + name_of(call.dtype);
  if (call.count != 0) text += " x " + std::to_string(call.count);
  if (call.reduces) text += ", " + name_of(call.op);
  if (call.root != kNoRoot) text += ", root " + std::to_string(call.root);
  return text + ")";
}

int inject_faults(Communicator& comm, const char* name) {
  // Both are asked, since each call is one event of either.
  const bool hangs = emulator::fault("hccl", "hang");
  if (emulator::fault("hccl", "kill")) kill(getpid(), SIGKILL);
  if (emulator::fault("hccl", "async")) {
    comm.set_asynchronous_error("EI0013: communicator " + comm.name() +
                                " got an asynchronous error, as was asked for by a fault");
  }
  if (!hangs) return kSuccess;
  comm.hang();
  return comm.fail(kTimeout, std::string(name) +
                                 " hung, as was asked for by a fault, until all "
                                 "other ranks were gone");
}

std::string Exchange::what() const {
  return std::string(call_.name) + " (collective " + std::to_string(comm_.num_calls) + ")";
}

int Exchange::start(const Counts& counts) {
  if (const int code = comm_.check_usable()) return code;
  ++comm_.num_calls;
  if (const int code = inject_faults(comm_, call_.name)) return code;
  const uint32_t round = comm_.next_round;
  comm_.member(comm_.rank()).calls[round % 2] = call_;
  uint64_t* const posted = comm_.counts(comm_.rank(), round);
  std::copy(counts.sends.begin(), counts.sends.end(), posted);
  std::copy(counts.receives.begin(), counts.receives.end(), posted + comm_.size());
  if (const int code = sync()) return code;
  if (const int code = compare(round)) return code;
  return counts.sends.empty() ? kSuccess : compare_counts(round);
}

int Exchange::sync() {
  const uint32_t target = ++comm_.next_round;
  Member& self = comm_.member(comm_.rank());
  self.arrived.store(target, std::memory_order_release);
  announce(self.arrived);
  const auto missing = [this, target] {
    std::vector<uint32_t> ranks;
    for (uint32_t rank = 0; rank < comm_.size(); ++rank) {
      const uint32_t arrived = comm_.member(rank).arrived.load(std::memory_order_acquire);
      if (static_cast<int32_t>(arrived - target) < 0) ranks.push_back(rank);
    }
    return ranks;
  };
  for (uint32_t rank = 0; rank < comm_.size(); ++rank) {
    const int code = comm_.await(comm_.member(rank).arrived, target, deadline_, what(), missing);
    if (code != kSuccess) return code;
  }
  return kSuccess;
}

int Exchange::compare(uint32_t round) const {
  const Call& first = comm_.member(0).calls[round % 2];
  for (uint32_t rank = 1; rank < comm_.size(); ++rank) {
    const Call& other = comm_.member(rank).calls[round % 2];
    const char* differs = nullptr;
    if (std::strcmp(first.name, other.name) != 0) {
      differs = "operation";
    } else if (first.dtype != other.dtype) {
      differs = "dtype";
    } else if (first.count != other.count) {
      differs = "count";
    } else if (first.reduces && first.op != other.op) {
      differs = "reduction";
    } else if (first.root != other.root) {
      differs = "root";
    }
    if (differs == nullptr) continue;
    return comm_.fail(kParameter, "EI0005: the ranks of communicator " + comm_.name() +
                                      " do not call the same in their collective " +
                                      std::to_string(comm_.num_calls) + ": the " + differs +
                                      " differs, " + hccl::describe(first) + " on " +
                                      comm_.describe(0) + " and " + hccl::describe(other) + " on " +
                                      comm_.describe(rank));
  }
  return kSuccess;
}

int Exchange::compare_counts(uint32_t round) {
  const uint32_t size = comm_.size();
  counted_ = true;
  for (uint32_t from = 0; from < size; ++from) {
    for (uint32_t to = 0; to < size; ++to) {
      const uint64_t sent = comm_.counts(from, round)[to];
      const uint64_t received = comm_.counts(to, round)[size + from];
      largest_ = std::max(largest_, sent);
      if (sent == received) continue;
      return comm_.fail(kParameter, "EI0005: " + what() + " of communicator " + comm_.name() +
                                        ": " + comm_.describe(from) + " sends " +
                                        std::to_string(sent) + " elements to " +
                                        comm_.describe(to) + ", which expects " +
                                        std::to_string(received));
    }
  }
  return kSuccess;
}

uint64_t Exchange::largest(const std::vector<uint64_t>& own) const {
  return counted_ ? largest_ : *std::max_element(own.begin(), own.end());
}

}  // namespace hccl
