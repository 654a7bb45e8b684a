// How the ranks of a communicator come together.

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "emulator.hpp"
#include "hccl/communicator.hpp"

namespace hccl {
namespace {

// The physical number of the calling thread's device, or -1 when none is set.
int32_t physical_device() {
  const int32_t logical = emulator::current_device();
  const char* visible = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
  if (logical < 0 || visible == nullptr) return logical;
  for (int32_t i = 0; i < logical && visible != nullptr; ++i) {
    visible = std::strchr(visible, ',');
    if (visible != nullptr) ++visible;
  }
  return visible == nullptr || *visible == '\0' ? logical : std::atoi(visible);
}

// FNV-1a over what makes a sub-communicator; never 0.
uint64_t key_of(uint64_t id, const std::vector<uint32_t>& members, uint32_t generation) {
  uint64_t hash = 1469598103934665603ull;
  const auto add = [&hash](uint64_t value) {
    for (int i = 0; i < 8; ++i, value >>= 8) hash = (hash ^ (value & 255)) * 1099511628211ull;
  };
  add(id);
  for (const uint32_t member : members) add(member);
  add(generation);
  return hash == 0 ? 1 : hash;
}

}  // namespace

int Communicator::create(const RootInfo& root, uint32_t num_ranks, uint32_t rank,
                         const Options& options, std::shared_ptr<Communicator>* made) {
  if (num_ranks == 0 || num_ranks > kMaxRanks || rank >= num_ranks) {
    return emulator::fail(kParameter, "EI0003: rank " + std::to_string(rank) + " of " +
                                          std::to_string(num_ranks) + " ranks; allowed are 1 to " +
                                          std::to_string(kMaxRanks) + " ranks, counted from 0");
  }
  if (physical_device() < 0) {
    return emulator::fail(kRuntime,
                          "no device is set: call torch.npu.set_device before the process group "
                          "is made");
  }
  if (emulator::busy_start()) {
    return emulator::fail(kRuntime,
                          "EJ0001: Failed to initialize the HCCP process. Reason: Maybe the last "
                          "training process is running. Wait for 10s after killing the last "
                          "training process and try again (a fault asks for it)");
  }
  std::shared_ptr<Communicator> comm(new Communicator(num_ranks, rank));
  if (const int code = connect_timeout(&comm->connect_timeout_)) return code;
  if (const int code = hccl::exec_timeout(&comm->exec_timeout_)) return code;
  if (options.exec_timeout >= 0) comm->exec_timeout_ = options.exec_timeout;
  comm->name_ = options.name.empty() ? "emulated_" + std::to_string(root.id) : options.name;
  int code = comm->map(root);
  if (code == kSuccess) code = comm->attach();
  if (code == kSuccess) code = comm->await_all();
  if (code == kSuccess) code = comm->check_devices();
  // All hold it by now, or it is of no use to them.
  release_root(root);
  if (code != kSuccess) {
    comm->leave();
    return code;
  }
  static std::atomic<bool>* const first = new std::atomic<bool>(true);
  // A launcher tells the rank among all processes; here it may be that in a group of some.
  if (first->exchange(false) && std::getenv("RANK") == nullptr) {
    emulator::set_rank(static_cast<int32_t>(rank));
  }
  *made = std::move(comm);
  return kSuccess;
}

int Communicator::map(const RootInfo& root) {
  if (const int code = open_root(root, &fd_)) return code;
  void* address = nullptr;
  const int code = map_segment(fd_, layout_.mapped_bytes, layout_.file_bytes, &address);
  if (code == kSuccess) base_ = static_cast<uint8_t*>(address);
  return code;
}

int Communicator::attach() {
  uint32_t agreed = 0;
  if (!header().num_ranks.compare_exchange_strong(agreed, size()) && agreed != size()) {
    return emulator::fail(kParameter, "EI0005: rank " + std::to_string(rank_) +
                                          " makes a communicator of " + std::to_string(size()) +
                                          " ranks, another rank made it of " +
                                          std::to_string(agreed));
  }
  Member& self = member(rank_);
  uint32_t absent = kAbsent;
  if (!self.presence.compare_exchange_strong(absent, kTaken)) {
    return emulator::fail(kParameter, "EI0003: rank " + std::to_string(rank_) +
                                          " is taken twice, by process " +
                                          std::to_string(self.process.pid) + " and by process " +
                                          std::to_string(getpid()));
  }
  self.process = this_process();
  self.device = physical_device();
  self.machine = network_namespace();
  self.presence = kAttached;
  attached_ = true;
  ++header().num_attached;
  announce(header().num_attached);
  return kSuccess;
}

int Communicator::await_all() {
  const Deadline deadline(connect_timeout_);
  for (;;) {
    const uint32_t attached = header().num_attached;
    if (attached == size()) return kSuccess;
    sleep_while(header().num_attached, attached);
    std::string absent;
    bool given_up = false;
    for (uint32_t rank = 0; rank < size(); ++rank) {
      if (member(rank).presence < kAttached) {
        absent += (absent.empty() ? "" : ", ") + std::to_string(rank);
      } else if (member(rank).presence == kLeft) {
        given_up = true;
      } else if (is_gone(rank)) {
        return report_gone(rank, "the set-up of the communicator");
      }
    }
    // When the first rank gives up waiting, it is over for all: they were to be complete.
    if ((deadline.passed() || given_up) && header().num_attached != size()) {
      return emulator::fail(
          kTimeout, "EI0006: the set-up of communicator " + name_ + " timed out after " +
                        std::to_string(connect_timeout_) + " s (HCCL_CONNECT_TIMEOUT): of " +
                        std::to_string(size()) + " ranks, rank " + absent +
                        " did not come. See whether that process failed or is late");
    }
  }
}

// A device has one rank; two mean that some process has not set its device.
int Communicator::check_devices() const {
  for (uint32_t a = 0; a < size(); ++a) {
    for (uint32_t b = 0; b < a; ++b) {
      if (member(a).device != member(b).device || member(a).machine != member(b).machine) continue;
      return emulator::fail(kParameter, "EI0004: " + describe(b) + " and " + describe(a) +
                                            " use the same device " +
                                            std::to_string(member(a).device) +
                                            "; call torch.npu.set_device(LOCAL_RANK) before the "
                                            "process group is made");
    }
  }
  return check_device_set();
}

// Follows hccl@9.1.0 docs/zh/user_guide/constraints.md
int Communicator::check_device_set() const {
  if (emulator::soc_class() != emulator::k910A) return kSuccess;
  for (uint32_t first = 0; first < size(); ++first) {
    uint32_t number = 0, lower = 0;
    std::string devices;
    for (uint32_t rank = 0; rank < size(); ++rank) {
      if (member(rank).machine != member(first).machine) continue;
      ++number;
      lower += member(rank).device < 4;
      devices += (devices.empty() ? "" : ",") + std::to_string(member(rank).device);
    }
    const bool together = number == 8 || lower == 0 || lower == number;
    if ((number == 1 || number == 2 || number == 4 || number == 8) && together) continue;
    return emulator::fail(
        kParameter, "EI0004: devices " + devices +
                        " of one machine cannot form a communicator on " + emulator::soc_name() +
                        ": it takes 1, 2, 4 or 8, and 2 or 4 must all be of 0 to 3 or of 4 to 7");
  }
  return kSuccess;
}

int Communicator::create_sub(const std::vector<uint32_t>& members, uint64_t id, uint32_t rank,
                             const Options& options, std::shared_ptr<Communicator>* made) {
  for (const uint32_t other : members) {
    if (other >= size()) {
      return emulator::fail(kParameter, "EI0003: rank " + std::to_string(other) +
                                            " of a sub-communicator is not one of the " +
                                            std::to_string(size()) + " of " + name_);
    }
  }
  if (rank >= members.size() || members[rank] != rank_) {
    return emulator::fail(kParameter, "EI0003: rank " + std::to_string(rank_) + " of " + name_ +
                                          " is not rank " + std::to_string(rank) +
                                          " of the sub-communicator");
  }
  uint32_t generation;
  {
    const std::lock_guard<std::mutex> guard(state_lock_);
    generation = num_subs_[key_of(id, members, 0)]++;
  }
  const uint64_t key = key_of(id, members, generation + 1);
  RootInfo root;
  Invitation* invitation = nullptr;
  const int code = rank == 0 ? publish(key, &root, &invitation) : find(key, members[0], &root);
  if (code != kSuccess) return code;
  Options sub = options;
  if (sub.name.empty()) sub.name = name_ + "_" + std::to_string(id);
  const int joined = create(root, static_cast<uint32_t>(members.size()), rank, sub, made);
  if (invitation != nullptr) {
    invitation->ready = 0;
    invitation->key = 0;
  }
  return joined;
}

int Communicator::publish(uint64_t key, RootInfo* root, Invitation** invitation) {
  for (Invitation& free : header().invitations) {
    uint64_t none = 0;
    if (!free.key.compare_exchange_strong(none, key)) continue;
    if (const int code = make_root(root)) {
      free.key = 0;
      return code;
    }
    free.root = *root;
    free.ready.store(1, std::memory_order_release);
    *invitation = &free;
    return kSuccess;
  }
  return emulator::fail(kUnavailable, "more than " + std::to_string(kMaxInvitations) +
                                          " sub-communicators of " + name_ +
                                          " are being made at once");
}

int Communicator::find(uint64_t key, uint32_t creator, RootInfo* root) {
  const Deadline deadline(connect_timeout_);
  while (!deadline.passed()) {
    for (const Invitation& invitation : header().invitations) {
      if (invitation.key == key && invitation.ready.load(std::memory_order_acquire) == 1) {
        *root = invitation.root;
        return kSuccess;
      }
    }
    if (is_gone(creator)) return report_gone(creator, "the set-up of a sub-communicator");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return emulator::fail(kTimeout, "EI0006: the set-up of a sub-communicator of " + name_ +
                                      " timed out after " + std::to_string(connect_timeout_) +
                                      " s (HCCL_CONNECT_TIMEOUT): " + describe(creator) +
                                      ", its rank 0, did not come");
}

}  // namespace hccl
