#include "hccl/waiting.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <ctime>
#include <string>

#include "emulator.hpp"
#include "hccl/types.hpp"

namespace hccl {
namespace {

// `lowest` and `highest` are what CANN's manual allows; the emulator takes less, so that a test
// need not wait for two minutes, and says so.
int seconds_of(const char* variable, int64_t otherwise, int64_t lowest, int64_t highest,
               int64_t* seconds) {
  const char* text = std::getenv(variable);
  *seconds = otherwise;
  if (text == nullptr || *text == '\0') return kSuccess;
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  const std::string given = std::string(variable) + "=" + text;
  if (end == text || *end != '\0' || value < std::min<int64_t>(lowest, 1) || value > INT32_MAX) {
    return emulator::fail(kParameter,
                          "EI0001: " + given + " is not a number of seconds; allowed are " +
                              std::to_string(lowest) + " to " + std::to_string(highest));
  }
  if (value < lowest || value > highest) {
    emulator::warn(given + " is outside of " + std::to_string(lowest) + " to " +
                   std::to_string(highest) +
                   " and would be refused by CANN; the emulator takes it");
  }
  *seconds = value;
  return kSuccess;
}

}  // namespace

void sleep_while(const std::atomic<uint32_t>& word, uint32_t value) {
  const timespec look = {0, std::chrono::nanoseconds(kLook).count()};
  // Not FUTEX_PRIVATE_FLAG: the word is shared between processes.
  syscall(SYS_futex, &word, FUTEX_WAIT, value, &look, nullptr, 0);
}

void announce(const std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

int connect_timeout(int64_t* seconds) {
  const int code = seconds_of("HCCL_CONNECT_TIMEOUT", 120, 120, 7200, seconds);
  // For the ranks to tell each other why they failed. Not after a value that only the emulator
  // takes.
  if (code == kSuccess && *seconds >= 120) *seconds += 20;
  return code;
}

int exec_timeout(int64_t* seconds) {
  if (emulator::soc_class() != emulator::k910A) {
    return seconds_of("HCCL_EXEC_TIMEOUT", 1836, 0, INT32_MAX, seconds);
  }
  constexpr int64_t kUnit = 68;
  const int code = seconds_of("HCCL_EXEC_TIMEOUT", 1836, 1, 17340, seconds);
  // A value below one unit counts as one on the chip; the emulator takes it as it is.
  if (code == kSuccess && *seconds >= kUnit) *seconds = *seconds / kUnit * kUnit;
  return code;
}

}  // namespace hccl
