// The text that goes with an error code, kept for aclGetRecentErrMsg.

#include "runtime/errors.hpp"

#include <acl/acl.h>

#include <cstdio>
#include <mutex>
#include <set>

#include "emulator.hpp"

namespace emulator {
namespace {

thread_local std::string pending;
thread_local std::string handed_out;
thread_local int last_code = ACL_SUCCESS;

}  // namespace

int fail(int code, const std::string& text) {
  // Failures that the caller got over stay until someone asks: each is said once.
  if (pending.find(text) == std::string::npos) {
    pending += (pending.empty() ? "[emulated CANN] " : "\n[emulated CANN] ") + text;
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

}  // namespace emulator

extern "C" {

// Hands the text out once, as CANN does.
EMULATOR_API const char* aclGetRecentErrMsg() {
  emulator::handed_out.swap(emulator::pending);
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
