// A rank's end of a communicator: who the others are, the memory shared with them, and waiting for
// them without waiting for the dead.

#ifndef ASCEND_EMULATOR_HCCL_COMMUNICATOR_HPP_
#define ASCEND_EMULATOR_HCCL_COMMUNICATOR_HPP_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hccl/layout.hpp"
#include "hccl/waiting.hpp"

namespace hccl {

struct Options {
  std::string name;           // empty: one is made from the root info
  int64_t exec_timeout = -1;  // seconds, 0: never; -1: that of HCCL_EXEC_TIMEOUT
};

// All functions that return int return a Code, having recorded a text for it.
class Communicator {
 public:
  // Joins, and waits until all ranks have.
  static int create(const RootInfo& root, uint32_t num_ranks, uint32_t rank, const Options& options,
                    std::shared_ptr<Communicator>* made);
  // Of some ranks of this one, which all of them call with the same `id`; `rank` is the caller's in
  // the new one.
  int create_sub(const std::vector<uint32_t>& members, uint64_t id, uint32_t rank,
                 const Options& options, std::shared_ptr<Communicator>* made);
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  ~Communicator();

  uint32_t rank() const { return rank_; }
  uint32_t size() const { return layout_.num_ranks; }
  const std::string& name() const { return name_; }
  const Layout& layout() const { return layout_; }
  int64_t exec_timeout() const { return exec_timeout_; }
  // "rank 1 (process 4711)"
  std::string describe(uint32_t rank) const;

  Header& header() const;
  Member& member(uint32_t rank) const;
  Channel& channel(uint32_t from, uint32_t to) const;
  uint64_t* counts(uint32_t rank, uint32_t round) const;
  uint8_t* slot(uint32_t rank, uint32_t round) const;
  int file() const { return fd_; }

  // Waits until the word has reached `target`, counted modulo 2^32. `missing` tells which ranks
  // have not done their part; when one of them has ended, or the deadline passes, the communicator
  // fails.
  int await(const std::atomic<uint32_t>& word, uint32_t target, const Deadline& deadline,
            const std::string& what, const std::function<std::vector<uint32_t>()>& missing);

  // A communicator whose ranks have lost step cannot be used again: every later call returns what
  // the first failure did.
  int fail(int code, const std::string& text);
  // What a call must return at once, or kSuccess.
  int check_usable();

  // An error that no call returned, as the chip's network reports one; for HcclGetCommAsyncError.
  void set_asynchronous_error(const std::string& text);
  int asynchronous_error(std::string* text) const;

  // Tells the others that this rank will not come any more, and ends what other threads of this
  // process wait for.
  void leave();
  void suspend(bool on) { suspended_ = on; }
  // What a hung rank does: nothing, until all other ranks have been gone for some seconds.
  void hang();

  std::mutex collective_lock, send_lock, receive_lock;
  uint32_t next_round = 0;  // of data exchange; under collective_lock
  uint64_t num_calls = 0;   // collectives so far; under collective_lock
  uint64_t outbox_end = 0;  // bytes of this rank's region in use; under send_lock
  std::atomic<int32_t> deterministic{1};

 private:
  Communicator(uint32_t num_ranks, uint32_t rank) : layout_(num_ranks), rank_(rank) {}
  int map(const RootInfo& root);
  int attach();
  int await_all();
  int check_devices() const;
  int check_device_set() const;
  bool is_gone(uint32_t rank) const;
  int report_gone(uint32_t rank, const std::string& what);
  int publish(uint64_t key, RootInfo* root, Invitation** invitation);
  int find(uint64_t key, uint32_t creator, RootInfo* root);

  const Layout layout_;
  const uint32_t rank_;
  std::string name_;
  int fd_ = -1;
  uint8_t* base_ = nullptr;
  int64_t exec_timeout_ = 0;
  int64_t connect_timeout_ = 0;
  bool attached_ = false;
  std::atomic<bool> left_{false};
  std::atomic<bool> suspended_{false};
  mutable std::mutex state_lock_;  // of what follows
  int failure_ = kSuccess;
  std::string failure_text_;
  int asynchronous_error_ = kSuccess;
  std::string asynchronous_text_;
  std::map<uint64_t, uint32_t> num_subs_;  // made so far, by what they are made of
};

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_COMMUNICATOR_HPP_
