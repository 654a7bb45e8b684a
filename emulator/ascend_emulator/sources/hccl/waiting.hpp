// Waiting for other processes without burning their cores.

#ifndef ASCEND_EMULATOR_HCCL_WAITING_HPP_
#define ASCEND_EMULATOR_HCCL_WAITING_HPP_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace hccl {

using Clock = std::chrono::steady_clock;

// How long a wait may take: `seconds` from now, or for ever where they are 0.
class Deadline {
 public:
  explicit Deadline(int64_t seconds)
      : never_(seconds == 0), at_(Clock::now() + std::chrono::seconds(seconds)) {}
  bool passed() const { return !never_ && Clock::now() >= at_; }

 private:
  bool never_;
  Clock::time_point at_;
};

// How often a waiting rank looks whether the others still live: their deaths are noticed within it.
constexpr std::chrono::milliseconds kLook(100);

// Sleeps until the word is changed and announced, `kLook` has passed, or for no reason.
void sleep_while(const std::atomic<uint32_t>& word, uint32_t value);

// Wakes all that sleep on the word, in whatever process.
void announce(const std::atomic<uint32_t>& word);

// The seconds that are waited with HCCL_CONNECT_TIMEOUT (default 120, and 20 more) and with
// HCCL_EXEC_TIMEOUT (default 1836; 0: never; on the 910A class in units of 68).
// Follows hccl@9.1.0 docs/zh/user_guide/hccl_env/HCCL_CONNECT_TIMEOUT.md
// Follows hccl@9.1.0 docs/zh/user_guide/hccl_env/HCCL_EXEC_TIMEOUT.md
// A Code; kParameter when the variable holds no number of seconds.
int connect_timeout(int64_t* seconds);
int exec_timeout(int64_t* seconds);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_WAITING_HPP_
