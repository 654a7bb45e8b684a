// Events complete when they are recorded, since everything before them has.

#include <acl/acl.h>

#include <chrono>
#include <mutex>
#include <string>
#include <unordered_map>

#include "emulator.hpp"
#include "runtime/errors.hpp"
#include "runtime/streams.hpp"

namespace emulator {
namespace {

struct Event {
  uint32_t flags;
  bool reusable;  // from aclrtCreateEventExWithFlag
  bool recorded = false;
  std::chrono::steady_clock::time_point when{};
};

struct Events {
  std::mutex lock;
  std::unordered_map<aclrtEvent, Event> open;
};

Events& events() {
  static Events* const value = new Events;
  return *value;
}

aclError create(const char* function, aclrtEvent* event, uint32_t flags, bool reusable) {
  if (event == nullptr) return invalid(function, "event is null");
  const std::lock_guard<std::mutex> guard(events().lock);
  aclrtEvent handle = new char;
  events().open[handle] = Event{flags, reusable};
  *event = handle;
  return ACL_SUCCESS;
}

template <typename Use>
aclError with_event(const char* function, aclrtEvent handle, Use use) {
  const std::lock_guard<std::mutex> guard(events().lock);
  const auto found = events().open.find(handle);
  if (found == events().open.end()) return invalid(function, "no such event");
  return use(found->second);
}

aclError unsupported(const char* function, const char* why) {
  return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, std::string(function) + ": " + why);
}

// Flags with which a stream can wait for an event: ACL_EVENT_SYNC, and, as the runtime's source has
// it (src/runtime/core/inc/event/event.hpp), the older one for it, EXTERNAL and IPC.
constexpr uint32_t kWaitable = ACL_EVENT_SYNC | 0x04u | 0x20u | 0x40u;
constexpr const char* kReusable = "the event is from aclrtCreateEventExWithFlag";

aclError wait_for(aclrtEvent event) {
  const aclError error =
      with_event("aclrtSynchronizeEvent", event, [](Event&) { return ACL_SUCCESS; });
  if (error == ACL_SUCCESS) host_sync("aclrtSynchronizeEvent");
  return error;
}

}  // namespace
}  // namespace emulator

using emulator::Event;
using emulator::with_event;

extern "C" {

EMULATOR_API aclError aclrtCreateEvent(aclrtEvent* event) {
  return emulator::create("aclrtCreateEvent", event, ACL_EVENT_SYNC | ACL_EVENT_TIME_LINE, false);
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
EMULATOR_API aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t flag) {
  return emulator::create("aclrtCreateEventWithFlag", event, flag, false);
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
EMULATOR_API aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t flag) {
  return emulator::create("aclrtCreateEventExWithFlag", event, flag, true);
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
EMULATOR_API aclError aclrtDestroyEvent(aclrtEvent event) {
  auto& events = emulator::events();
  const std::lock_guard<std::mutex> guard(events.lock);
  if (events.open.erase(event) == 0) {
    return emulator::invalid("aclrtDestroyEvent", "no such event");
  }
  delete static_cast<char*>(event);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
EMULATOR_API aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  if (!emulator::is_stream(stream)) return emulator::invalid("aclrtRecordEvent", "no such stream");
  return with_event("aclrtRecordEvent", event, [](Event& found) {
    found.recorded = true;
    found.when = std::chrono::steady_clock::now();
    return ACL_SUCCESS;
  });
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
// Follows runtime@9.1.0 src/runtime/core/src/api_impl/api_error.cc
EMULATOR_API aclError aclrtResetEvent(aclrtEvent event, aclrtStream) {
  return with_event("aclrtResetEvent", event, [](Event& found) {
    if (found.reusable) return emulator::unsupported("aclrtResetEvent", emulator::kReusable);
    found.recorded = false;
    return static_cast<int>(ACL_SUCCESS);
  });
}

EMULATOR_API aclError aclrtQueryEvent(aclrtEvent event, aclrtEventStatus* status) {
  return with_event("aclrtQueryEvent", event, [&](Event& found) {
    if (found.reusable) return emulator::unsupported("aclrtQueryEvent", emulator::kReusable);
    *status = found.recorded ? ACL_EVENT_STATUS_COMPLETE : ACL_EVENT_STATUS_NOT_READY;
    return static_cast<int>(ACL_SUCCESS);
  });
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
EMULATOR_API aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status) {
  return with_event("aclrtQueryEventStatus", event, [&](Event& found) {
    // One that can be recorded again has nothing to wait for before it is recorded at all.
    *status = found.recorded || found.reusable ? ACL_EVENT_RECORDED_STATUS_COMPLETE
                                               : ACL_EVENT_RECORDED_STATUS_NOT_READY;
    return ACL_SUCCESS;
  });
}

EMULATOR_API aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus* status) {
  return with_event("aclrtQueryEventWaitStatus", event, [&](Event& found) {
    if (found.reusable) {
      return emulator::unsupported("aclrtQueryEventWaitStatus", emulator::kReusable);
    }
    *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
    return static_cast<int>(ACL_SUCCESS);
  });
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
EMULATOR_API aclError aclrtSynchronizeEvent(aclrtEvent event) { return emulator::wait_for(event); }

EMULATOR_API aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t) {
  return emulator::wait_for(event);
}

// A stream that waits for an event does not stop the host: nothing to count.
// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
// Follows runtime@9.1.0 src/runtime/core/src/api_impl/api_error.cc
EMULATOR_API aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  if (!emulator::is_stream(stream)) {
    return emulator::invalid("aclrtStreamWaitEvent", "no such stream");
  }
  return with_event("aclrtStreamWaitEvent", event, [](Event& found) {
    if ((found.flags & emulator::kWaitable) == 0) {
      return emulator::unsupported("aclrtStreamWaitEvent", "the event lacks ACL_EVENT_SYNC");
    }
    return static_cast<int>(ACL_SUCCESS);
  });
}

EMULATOR_API aclError aclrtStreamWaitEventWithTimeout(aclrtStream stream, aclrtEvent event,
                                                      int32_t) {
  return aclrtStreamWaitEvent(stream, event);
}

// Follows runtime@9.1.0 docs/03_api_ref/07_Event管理.md
EMULATOR_API aclError aclrtEventElapsedTime(float* ms, aclrtEvent startEvent, aclrtEvent endEvent) {
  if (ms == nullptr) return emulator::invalid("aclrtEventElapsedTime", "ms is null");
  Event ends[2];
  const aclrtEvent handles[2] = {startEvent, endEvent};
  for (int i = 0; i < 2; ++i) {
    const aclError error = with_event("aclrtEventElapsedTime", handles[i], [&](Event& found) {
      ends[i] = found;
      return ACL_SUCCESS;
    });
    if (error != ACL_SUCCESS) return error;
    if (!ends[i].recorded || (ends[i].flags & ACL_EVENT_TIME_LINE) == 0) {
      return emulator::fail(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
                            ends[i].recorded
                                ? "aclrtEventElapsedTime: an event lacks ACL_EVENT_TIME_LINE"
                                : "aclrtEventElapsedTime: an event was not recorded");
    }
  }
  *ms = std::chrono::duration<float, std::milli>(ends[1].when - ends[0].when).count();
  return ACL_SUCCESS;
}

// In microseconds.
EMULATOR_API aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t* timestamp) {
  return with_event("aclrtEventGetTimestamp", event, [&](Event& found) {
    if (!found.recorded) {
      return emulator::fail(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
                            "aclrtEventGetTimestamp: the event was not recorded");
    }
    *timestamp = static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(found.when.time_since_epoch())
            .count());
    return static_cast<int>(ACL_SUCCESS);
  });
}

}  // extern "C"
