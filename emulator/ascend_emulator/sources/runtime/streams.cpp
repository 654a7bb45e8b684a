// Streams run what they are given at once; they keep what callers ask them about.

#include "runtime/streams.hpp"

#include <acl/acl.h>

#include <mutex>
#include <string>
#include <unordered_map>

#include "emulator.hpp"
#include "runtime/device.hpp"
#include "runtime/errors.hpp"

namespace emulator {
namespace {

struct Stream {
  int32_t id;
  int32_t device;
  uint32_t priority;
  uint32_t flags;
  uint64_t failure_mode = 0;
  uint32_t overflow_switch = 0;
};

struct Streams {
  std::mutex lock;
  std::unordered_map<aclrtStream, Stream> open;
  int32_t next_id = 0;
};

Streams& streams() {
  static Streams* const value = new Streams;
  return *value;
}

aclError create(const char* function, aclrtStream* stream, uint32_t priority, uint32_t flags) {
  if (stream == nullptr) return invalid(function, "stream is null");
  const int32_t device = current_device();
  if (device < 0) return no_context(function);
  const std::lock_guard<std::mutex> guard(streams().lock);
  // The handle is an address that nothing else has.
  aclrtStream handle = new char;
  streams().open[handle] = Stream{streams().next_id++, device, priority, flags};
  *stream = handle;
  return ACL_SUCCESS;
}

aclError destroy(const char* function, aclrtStream stream) {
  const std::lock_guard<std::mutex> guard(streams().lock);
  if (streams().open.erase(stream) == 0) return invalid(function, "no such stream");
  delete static_cast<char*>(stream);
  return ACL_SUCCESS;
}

// Calls use(stream) under the lock; the default stream, nullptr, has nothing to be changed.
template <typename Use>
aclError with_stream(const char* function, aclrtStream handle, Use use) {
  const std::lock_guard<std::mutex> guard(streams().lock);
  const auto found = streams().open.find(handle);
  if (found == streams().open.end()) return invalid(function, "no such stream");
  use(found->second);
  return ACL_SUCCESS;
}

aclError wait_for(const char* function, aclrtStream stream) {
  if (!is_stream(stream)) return invalid(function, "no such stream");
  host_sync(function);
  return ACL_SUCCESS;
}

}  // namespace

bool is_stream(aclrtStream stream) {
  if (stream == nullptr) return true;
  const std::lock_guard<std::mutex> guard(streams().lock);
  return streams().open.count(stream) == 1;
}

}  // namespace emulator

extern "C" {

EMULATOR_API aclError aclrtCreateStream(aclrtStream* stream) {
  return emulator::create("aclrtCreateStream", stream, 0, 0);
}

// Follows runtime@9.1.0 docs/03_api_ref/06_Stream管理.md
EMULATOR_API aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t priority,
                                                  uint32_t flag) {
  return emulator::create("aclrtCreateStreamWithConfig", stream, priority, flag);
}

// Follows runtime@9.1.0 docs/03_api_ref/06_Stream管理.md
EMULATOR_API aclError aclrtDestroyStream(aclrtStream stream) {
  return emulator::destroy("aclrtDestroyStream", stream);
}

// Follows runtime@9.1.0 docs/03_api_ref/06_Stream管理.md
EMULATOR_API aclError aclrtDestroyStreamForce(aclrtStream stream) {
  return emulator::destroy("aclrtDestroyStreamForce", stream);
}

// Follows runtime@9.1.0 docs/03_api_ref/06_Stream管理.md
EMULATOR_API aclError aclrtSynchronizeStream(aclrtStream stream) {
  return emulator::wait_for("aclrtSynchronizeStream", stream);
}

// Follows runtime@9.1.0 docs/03_api_ref/06_Stream管理.md
// Follows runtime@9.1.0 src/runtime/core/src/api_impl/api_error.cc
EMULATOR_API aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) {
  if (timeout < -1 || timeout == 0) {
    return emulator::invalid("aclrtSynchronizeStreamWithTimeout", "timeout is neither -1 nor > 0");
  }
  return emulator::wait_for("aclrtSynchronizeStream", stream);
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtSynchronizeDevice() {
  if (emulator::current_device() < 0) return emulator::no_context("aclrtSynchronizeDevice");
  emulator::host_sync("aclrtSynchronizeDevice");
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/04_Device管理.md
EMULATOR_API aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) {
  if (timeout < -1 || timeout == 0) {
    return emulator::invalid("aclrtSynchronizeDeviceWithTimeout", "timeout is neither -1 nor > 0");
  }
  return aclrtSynchronizeDevice();
}

EMULATOR_API aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status) {
  if (status == nullptr || !emulator::is_stream(stream)) {
    return emulator::invalid("aclrtStreamQuery",
                             status == nullptr ? "status is null" : "no such stream");
  }
  *status = ACL_STREAM_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtStreamGetId(aclrtStream stream, int32_t* streamId) {
  if (streamId == nullptr) return emulator::invalid("aclrtStreamGetId", "streamId is null");
  *streamId = -1;
  if (stream == nullptr) return ACL_SUCCESS;
  return emulator::with_stream("aclrtStreamGetId", stream,
                               [&](emulator::Stream& found) { *streamId = found.id; });
}

EMULATOR_API aclError aclrtStreamGetPriority(aclrtStream stream, uint32_t* priority) {
  return emulator::with_stream("aclrtStreamGetPriority", stream,
                               [&](emulator::Stream& found) { *priority = found.priority; });
}

EMULATOR_API aclError aclrtStreamGetFlags(aclrtStream stream, uint32_t* flags) {
  return emulator::with_stream("aclrtStreamGetFlags", stream,
                               [&](emulator::Stream& found) { *flags = found.flags; });
}

EMULATOR_API aclError aclrtDeviceGetStreamPriorityRange(int32_t* least, int32_t* greatest) {
  if (least != nullptr) *least = 7;
  if (greatest != nullptr) *greatest = 0;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/06_Stream管理.md
EMULATOR_API aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode) {
  if (stream == nullptr) return ACL_SUCCESS;  // the default stream has nothing to be changed here
  return emulator::with_stream("aclrtSetStreamFailureMode", stream,
                               [&](emulator::Stream& found) { found.failure_mode = mode; });
}

EMULATOR_API aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag) {
  return emulator::with_stream("aclrtSetStreamOverflowSwitch", stream,
                               [&](emulator::Stream& found) { found.overflow_switch = flag; });
}

EMULATOR_API aclError aclrtGetStreamOverflowSwitch(aclrtStream stream, uint32_t* flag) {
  return emulator::with_stream("aclrtGetStreamOverflowSwitch", stream,
                               [&](emulator::Stream& found) { *flag = found.overflow_switch; });
}

EMULATOR_API aclError aclrtSetStreamAttribute(aclrtStream stream, aclrtStreamAttr attribute,
                                              aclrtStreamAttrValue* value) {
  if (value == nullptr) return emulator::invalid("aclrtSetStreamAttribute", "value is null");
  return emulator::with_stream("aclrtSetStreamAttribute", stream, [&](emulator::Stream& found) {
    if (attribute == ACL_STREAM_ATTR_FAILURE_MODE) found.failure_mode = value->failureMode;
    if (attribute == ACL_STREAM_ATTR_FLOAT_OVERFLOW_CHECK) {
      found.overflow_switch = value->overflowSwitch;
    }
  });
}

EMULATOR_API aclError aclrtStreamAbort(aclrtStream stream) {
  return emulator::with_stream("aclrtStreamAbort", stream, [](emulator::Stream&) {});
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
EMULATOR_API aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }

EMULATOR_API aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }

// Follows runtime@9.1.0 docs/03_api_ref/12_执行控制.md
EMULATOR_API aclError aclrtSetOpExecuteTimeOutV2(uint64_t timeout, uint64_t* actualTimeout) {
  if (actualTimeout != nullptr) *actualTimeout = timeout == 0 ? UINT64_MAX : timeout;
  return ACL_SUCCESS;
}

}  // extern "C"
