// The text that goes with an error code, kept for aclGetRecentErrMsg.

#include "runtime/errors.hpp"

#include <acl/acl.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <set>
#include <vector>

#include "emulator.hpp"

namespace emulator {
namespace {

struct Failure {
  int code;
  std::string text;
  bool operator==(const Failure&) const = default;
};

thread_local std::vector<Failure> pending;
thread_local std::string handed_out;
thread_local int last_code = ACL_SUCCESS;

}  // namespace

int fail(int code, const std::string& text) {
  // Failures that the caller got over stay until someone asks: each is said once.
  const Failure failure{code, text};
  if (std::find(pending.begin(), pending.end(), failure) == pending.end()) {
    pending.push_back(failure);
  }
  last_code = code;
  return code;
}

int missing(const char* symbol, const char* file) {
  const std::string text = std::string(symbol) + " is not emulated; add it in " + file;
  warn(text);
  return fail(ACL_ERROR_FEATURE_UNSUPPORTED, text);
}

void warn(const std::string& text) {
  static std::mutex* const lock = new std::mutex;
  static std::set<std::string>* const said = new std::set<std::string>;
  const std::lock_guard<std::mutex> guard(*lock);
  if (said->insert(text).second) {
    std::fprintf(stderr, "[emulated CANN] %s\n", text.c_str());
    std::fflush(stderr);
  }
}

int invalid(const char* function, const std::string& what) {
  return fail(ACL_ERROR_RT_PARAM_INVALID, std::string(function) + ": " + what);
}

void recovered(int code) {
  if (pending.empty()) return;
  pending.erase(std::remove_if(pending.begin(), pending.end(),
                               [&](const Failure& failure) { return failure.code == code; }),
                pending.end());
  if (last_code == code) last_code = ACL_SUCCESS;
}

}  // namespace emulator

extern "C" {

// Hands the texts out once, the newest first, as CANN does.
// Follows runtime@9.1.0 docs/03_api_ref/13_异常处理.md
EMULATOR_API const char* aclGetRecentErrMsg() {
  emulator::handed_out.clear();
  for (auto failure = emulator::pending.rbegin(); failure != emulator::pending.rend(); ++failure) {
    if (!emulator::handed_out.empty()) emulator::handed_out += '\n';
    emulator::handed_out += "[emulated CANN] " + failure->text;
  }
  emulator::pending.clear();
  return emulator::handed_out.empty() ? nullptr : emulator::handed_out.c_str();
}

EMULATOR_API aclError aclrtGetLastError(aclrtLastErrLevel) {
  const aclError code = emulator::last_code;
  emulator::last_code = ACL_SUCCESS;
  return code;
}

EMULATOR_API aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return emulator::last_code; }

EMULATOR_API void aclAppLog(aclLogLevel, const char*, const char*, uint32_t, const char*, ...) {}

}  // extern "C"
