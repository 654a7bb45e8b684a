#include "hccl/communicator.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "emulator.hpp"

namespace hccl {
namespace {

// What hung is ended by whoever started it, who has to notice first that the others have failed.
constexpr std::chrono::seconds kLinger(5);

}  // namespace

Communicator::~Communicator() {
  if (base_ != nullptr) munmap(base_, layout_.mapped_bytes);
  if (fd_ >= 0) close(fd_);
}

Header& Communicator::header() const { return *reinterpret_cast<Header*>(base_); }

Member& Communicator::member(uint32_t rank) const {
  return reinterpret_cast<Member*>(base_ + layout_.members)[rank];
}

Channel& Communicator::channel(uint32_t from, uint32_t to) const {
  return reinterpret_cast<Channel*>(base_ + layout_.channels)[uint64_t{from} * size() + to];
}

uint64_t* Communicator::counts(uint32_t rank, uint32_t round) const {
  return reinterpret_cast<uint64_t*>(base_ + layout_.counts) +
         (2ull * rank + round % 2) * layout_.num_counts();
}

uint8_t* Communicator::slot(uint32_t rank, uint32_t round) const {
  return base_ + layout_.slots + (2ull * rank + round % 2) * layout_.slot_bytes;
}

std::string Communicator::describe(uint32_t rank) const {
  return "rank " + std::to_string(rank) + " (process " + std::to_string(member(rank).process.pid) +
         ")";
}

bool Communicator::is_gone(uint32_t rank) const {
  const Member& other = member(rank);
  return other.presence == kLeft || (other.presence == kAttached && !is_alive(other.process));
}

int Communicator::await(const std::atomic<uint32_t>& word, uint32_t target,
                        const Deadline& deadline, const std::string& what,
                        const std::function<std::vector<uint32_t>()>& missing) {
  for (;;) {
    const uint32_t value = word.load(std::memory_order_acquire);
    if (static_cast<int32_t>(value - target) >= 0) return kSuccess;
    sleep_while(word, value);
    if (word.load(std::memory_order_acquire) != value) continue;
    if (left_) return fail(kUnavailable, "communicator " + name_ + " was destroyed during " + what);
    for (const uint32_t rank : missing()) {
      // A rank may do its part and end between two looks.
      if (is_gone(rank) && word.load(std::memory_order_acquire) == value) {
        return report_gone(rank, what);
      }
    }
    if (!deadline.passed()) continue;
    std::string late;
    for (const uint32_t rank : missing()) late += (late.empty() ? "" : ", ") + describe(rank);
    return fail(kTimeout, "EI0002: " + what + " on rank " + std::to_string(rank_) +
                              " of communicator " + name_ + " timed out after " +
                              std::to_string(exec_timeout_) + " s (HCCL_EXEC_TIMEOUT): " + late +
                              " still runs but did not come to it");
  }
}

int Communicator::report_gone(uint32_t rank, const std::string& what) {
  // When several have ended, it is mostly since one did: name the one that was missed first.
  uint64_t first = 0;
  const uint64_t mine =
      (uint64_t{rank} + 1) << 32 | static_cast<uint32_t>(member(rank).process.pid);
  if (header().first_dead.compare_exchange_strong(first, mine)) first = mine;
  const uint32_t dead = static_cast<uint32_t>(first >> 32) - 1;
  const bool destroyed = member(dead).presence == kLeft;
  return fail(kRemote,
              "EI0013: " + describe(dead) + " of communicator " + name_ +
                  (destroyed ? " has left it" : " has ended") + " while rank " +
                  std::to_string(rank_) + " waits in " + what +
                  (destroyed ? ". It destroyed its communicator or closed its process group"
                             : ". See what that process said last"));
}

int Communicator::fail(int code, const std::string& text) {
  {
    const std::lock_guard<std::mutex> guard(state_lock_);
    if (failure_ == kSuccess) {
      failure_ = code;
      failure_text_ = text;
    }
  }
  return emulator::fail(code, text);
}

int Communicator::check_usable() {
  if (suspended_) {
    return emulator::fail(kSuspending, "communicator " + name_ + " is suspended (HcclCommSuspend)");
  }
  const std::lock_guard<std::mutex> guard(state_lock_);
  if (failure_ == kSuccess) return kSuccess;
  return emulator::fail(failure_, "communicator " + name_ + " failed before: " + failure_text_);
}

void Communicator::set_asynchronous_error(const std::string& text) {
  const std::lock_guard<std::mutex> guard(state_lock_);
  asynchronous_error_ = kRemote;
  asynchronous_text_ = text;
}

int Communicator::asynchronous_error(std::string* text) const {
  const std::lock_guard<std::mutex> guard(state_lock_);
  *text = asynchronous_text_;
  return asynchronous_error_;
}

void Communicator::leave() {
  left_ = true;
  if (attached_) member(rank_).presence = kLeft;
}

void Communicator::hang() {
  int alone = 0;
  while (alone * kLook < kLinger && !left_) {
    bool others = false;
    for (uint32_t rank = 0; rank < size(); ++rank) others |= rank != rank_ && !is_gone(rank);
    alone = others ? 0 : alone + 1;
    std::this_thread::sleep_for(kLook);
  }
}

}  // namespace hccl
