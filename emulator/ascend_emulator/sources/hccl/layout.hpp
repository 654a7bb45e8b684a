// What lies where in the memory that the ranks of a communicator share.
//
// No lock is ever held in it: a process may be killed at any instruction, and the others go on to
// say so. Every word is written by one rank, except where it says otherwise.

#ifndef ASCEND_EMULATOR_HCCL_LAYOUT_HPP_
#define ASCEND_EMULATOR_HCCL_LAYOUT_HPP_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "hccl/process.hpp"
#include "hccl/segment.hpp"
#include "hccl/types.hpp"

namespace hccl {

static_assert(std::atomic<uint32_t>::is_always_lock_free, "shared between processes");
static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");

constexpr uint32_t kMaxRanks = 1024;
constexpr uint32_t kNoRoot = UINT32_MAX;

// What a rank calls: equal on all ranks, or the call is refused.
struct Call {
  char name[24];
  DataType dtype;
  ReduceOp op;
  bool reduces;
  uint32_t root;   // kNoRoot: has none
  uint64_t count;  // elements; with counts per rank, 0
};

// Where a sub-communicator's root info is left for its other members.
struct Invitation {
  std::atomic<uint64_t> key;  // which sub-communicator; 0: free. Taken by compare-and-swap
  std::atomic<uint32_t> ready;
  RootInfo root;
};

constexpr uint32_t kMaxInvitations = 32;

struct Header {
  uint64_t id;                         // of the root info
  std::atomic<uint32_t> num_ranks;     // set by the first to come
  std::atomic<uint32_t> num_attached;  // counted up by each rank; a futex
  // The first rank that was missed because its process had ended: (rank + 1) << 32 | pid. Set once
  // by whoever notices, so that all ranks name the same cause.
  std::atomic<uint64_t> first_dead;
  Invitation invitations[kMaxInvitations];
};

enum Presence : uint32_t { kAbsent = 0, kTaken = 1, kAttached = 2, kLeft = 3 };

struct alignas(64) Member {
  std::atomic<uint32_t> presence;  // taken by compare-and-swap
  Process process;
  int32_t device;    // physical number
  uint64_t machine;  // network namespace: what stands for a machine here
  // Rounds of data exchange that this rank has reached; a futex.
  std::atomic<uint32_t> arrived;
  Call calls[2];  // by the parity of the round
};

struct Message {
  uint64_t offset;  // in the file
  uint64_t count;
  DataType dtype;
};

constexpr uint32_t kMaxMessages = 64;

// From one rank to one other. `sent` is the sender's, `taken` the receiver's; both are futexes.
struct alignas(64) Channel {
  std::atomic<uint32_t> sent;
  std::atomic<uint32_t> taken;
  Message messages[kMaxMessages];
};

// Byte offsets for a number of ranks.
struct Layout {
  explicit Layout(uint32_t ranks) : num_ranks(ranks) {
    members = align(sizeof(Header));
    counts = align(members + sizeof(Member) * ranks);
    channels = align(counts + 2 * num_counts() * sizeof(uint64_t) * ranks);
    slots = align(channels + sizeof(Channel) * ranks * ranks);
    slot_bytes = align(std::clamp<uint64_t>((8u << 20) / ranks, 64u << 10, 1u << 20));
    mapped_bytes = slots + 2 * slot_bytes * ranks;
    outboxes = mapped_bytes;
    file_bytes = outboxes + kOutboxBytes * ranks;
  }

  // Counts that a rank posts with a call: what it sends to each rank, then what it receives.
  uint64_t num_counts() const { return 2ull * num_ranks; }

  static uint64_t align(uint64_t bytes) { return (bytes + 4095) / 4096 * 4096; }

  // Messages on their way lie in the file behind the mapped part, in a region for each sender. It
  // takes memory only where it is written, and gives it back when the message was taken.
  static constexpr uint64_t kOutboxBytes = 1ull << 36;

  uint32_t num_ranks;
  uint64_t members, counts, channels, slots;
  uint64_t slot_bytes;  // of one of a rank's two buffers for data
  uint64_t mapped_bytes, outboxes, file_bytes;
};

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_LAYOUT_HPP_
