// Copies and fills. All are done before the call returns; what would wait on a chip is counted.

#include <acl/acl.h>

#include <cstring>
#include <string>

#include "emulator.hpp"
#include "runtime/counters.hpp"
#include "runtime/errors.hpp"
#include "runtime/memory.hpp"

namespace emulator {
namespace {

const char* side(int32_t device) { return device < 0 ? "host" : "device"; }

const char* direction(int32_t from, int32_t to) {
  if (from < 0) return to < 0 ? "h2h" : "h2d";
  if (to < 0) return "d2h";
  return from == to ? "d2d" : "p2p";
}

// What `kind` says of one side: 0 host, 1 device, -1 either.
int expected_source(aclrtMemcpyKind kind) {
  switch (kind) {
    case ACL_MEMCPY_HOST_TO_HOST:
    case ACL_MEMCPY_HOST_TO_DEVICE:
    case ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE:
      return 0;
    case ACL_MEMCPY_DEVICE_TO_HOST:
    case ACL_MEMCPY_DEVICE_TO_DEVICE:
    case ACL_MEMCPY_INNER_DEVICE_TO_DEVICE:
    case ACL_MEMCPY_INTER_DEVICE_TO_DEVICE:
      return 1;
    default:
      return -1;
  }
}

int expected_destination(aclrtMemcpyKind kind) {
  switch (kind) {
    case ACL_MEMCPY_HOST_TO_HOST:
    case ACL_MEMCPY_DEVICE_TO_HOST:
      return 0;
    case ACL_MEMCPY_HOST_TO_DEVICE:
    case ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE:
    case ACL_MEMCPY_DEVICE_TO_DEVICE:
    case ACL_MEMCPY_INNER_DEVICE_TO_DEVICE:
    case ACL_MEMCPY_INTER_DEVICE_TO_DEVICE:
      return 1;
    default:
      return -1;
  }
}

bool differs(int expected, int32_t device) {
  return expected >= 0 && expected != static_cast<int>(device >= 0);
}

// A side on a device must lie within one allocation: a chip would fault, memcpy might not.
aclError check_side(const char* function, const char* name, const void* pointer, uint64_t bytes,
                    int32_t device, int expected) {
  if (pointer == nullptr) return invalid(function, std::string(name) + " is null");
  if (differs(expected, device)) {
    return invalid(function, std::string(name) + " is " + side(device) +
                                 " memory, which the kind of copy does not allow");
  }
  if (device >= 0 && !within_allocation(pointer, bytes)) {
    return invalid(function, std::string(name) + ": " + std::to_string(bytes) +
                                 " bytes go beyond the end of the allocation");
  }
  return ACL_SUCCESS;
}

aclError copy(const char* function, void* to, size_t to_bytes, const void* from, size_t bytes,
              aclrtMemcpyKind kind, bool blocking) {
  if (bytes == 0) return ACL_SUCCESS;
  if (to_bytes < bytes) {
    return invalid(function, std::to_string(bytes) + " bytes do not fit the destination of " +
                                 std::to_string(to_bytes));
  }
  const int32_t from_device = owner(from);
  const int32_t to_device = owner(to);
  aclError error = check_side(function, "src", from, bytes, from_device, expected_source(kind));
  if (error != ACL_SUCCESS) return error;
  error = check_side(function, "dst", to, bytes, to_device, expected_destination(kind));
  if (error != ACL_SUCCESS) return error;
  // The wait comes before the copy's own work, which would otherwise make every copy a wait.
  if (blocking && from_device >= 0 && to_device < 0) {
    blocking_copy_to_host((std::string(function) + " (device to host)").c_str());
  }
  std::memmove(to, from, bytes);
  if (from_device >= 0 || to_device >= 0) copied(direction(from_device, to_device), bytes);
  return ACL_SUCCESS;
}

// Waits where the host side is not pinned: then the copy is done before the call returns.
aclError copy_async(const char* function, void* to, size_t to_bytes, const void* from, size_t bytes,
                    aclrtMemcpyKind kind) {
  if (kind == ACL_MEMCPY_HOST_TO_HOST) {
    return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
                std::string(function) + ": copies within the host are not asynchronous");
  }
  return copy(function, to, to_bytes, from, bytes, kind, !is_pinned(to));
}

aclError fill(const char* function, void* start, size_t room, int32_t value, size_t bytes) {
  if (bytes > room) {
    return invalid(function,
                   std::to_string(bytes) + " bytes do not fit the room of " + std::to_string(room));
  }
  const int32_t device = owner(start);
  const aclError error = check_side(function, "devPtr", start, bytes, device, -1);
  if (error != ACL_SUCCESS) return error;
  std::memset(start, value, bytes);
  kernel(function, 0, bytes);
  return ACL_SUCCESS;
}

aclError copy_rows(const char* function, void* to, size_t to_pitch, const void* from,
                   size_t from_pitch, size_t width, size_t height, aclrtMemcpyKind kind,
                   bool blocking) {
  if (width > to_pitch || width > from_pitch) {
    return invalid(function,
                   "a row of " + std::to_string(width) + " bytes is wider than its pitch");
  }
  for (size_t row = 0; row < height; ++row) {
    const aclError error =
        copy(function, static_cast<char*>(to) + row * to_pitch, width,
             static_cast<const char*>(from) + row * from_pitch, width, kind, blocking);
    if (error != ACL_SUCCESS) return error;
  }
  return ACL_SUCCESS;
}

aclError copy_batch(const char* function, void** to, size_t* to_bytes, void** from, size_t* bytes,
                    size_t copies, size_t* failed, bool blocking) {
  for (size_t i = 0; i < copies; ++i) {
    const aclError error =
        copy(function, to[i], to_bytes[i], from[i], bytes[i], ACL_MEMCPY_DEFAULT, blocking);
    if (error == ACL_SUCCESS) continue;
    if (failed != nullptr) *failed = i;
    return error;
  }
  return ACL_SUCCESS;
}

}  // namespace
}  // namespace emulator

extern "C" {

// Follows runtime@9.1.0 docs/03_api_ref/11-03_内存拷贝与设置.md
EMULATOR_API aclError aclrtMemcpy(void* dst, size_t destMax, const void* src, size_t count,
                                  aclrtMemcpyKind kind) {
  // CANN goes by the addresses alone. Here a kind that contradicts them is refused as a mistake.
  return emulator::copy("aclrtMemcpy", dst, destMax, src, count, kind, true);
}

// Follows runtime@9.1.0 docs/03_api_ref/11-03_内存拷贝与设置.md
EMULATOR_API aclError aclrtMemcpyAsync(void* dst, size_t destMax, const void* src, size_t count,
                                       aclrtMemcpyKind kind, aclrtStream) {
  return emulator::copy_async("aclrtMemcpyAsync", dst, destMax, src, count, kind);
}

// Follows runtime@9.1.0 docs/03_api_ref/11-03_内存拷贝与设置.md
EMULATOR_API aclError aclrtMemcpyAsyncWithCondition(void* dst, size_t destMax, const void* src,
                                                    size_t count, aclrtMemcpyKind kind,
                                                    aclrtStream) {
  return emulator::copy_async("aclrtMemcpyAsyncWithCondition", dst, destMax, src, count, kind);
}

EMULATOR_API aclError aclrtMemcpy2d(void* dst, size_t dpitch, const void* src, size_t spitch,
                                    size_t width, size_t height, aclrtMemcpyKind kind) {
  return emulator::copy_rows("aclrtMemcpy2d", dst, dpitch, src, spitch, width, height, kind, true);
}

EMULATOR_API aclError aclrtMemcpy2dAsync(void* dst, size_t dpitch, const void* src, size_t spitch,
                                         size_t width, size_t height, aclrtMemcpyKind kind,
                                         aclrtStream) {
  return emulator::copy_rows("aclrtMemcpy2dAsync", dst, dpitch, src, spitch, width, height, kind,
                             false);
}

EMULATOR_API aclError aclrtMemcpyBatch(void** dsts, size_t* destMaxs, void** srcs, size_t* sizes,
                                       size_t numBatches, aclrtMemcpyBatchAttr*, size_t*, size_t,
                                       size_t* failIndex) {
  return emulator::copy_batch("aclrtMemcpyBatch", dsts, destMaxs, srcs, sizes, numBatches,
                              failIndex, true);
}

EMULATOR_API aclError aclrtMemcpyBatchAsync(void** dsts, size_t* destMaxs, void** srcs,
                                            size_t* sizes, size_t numBatches, aclrtMemcpyBatchAttr*,
                                            size_t*, size_t, size_t* failIndex, aclrtStream) {
  return emulator::copy_batch("aclrtMemcpyBatchAsync", dsts, destMaxs, srcs, sizes, numBatches,
                              failIndex, false);
}

// Follows runtime@9.1.0 docs/03_api_ref/11-03_内存拷贝与设置.md
EMULATOR_API aclError aclrtMemset(void* devPtr, size_t maxCount, int32_t value, size_t count) {
  return emulator::fill("aclrtMemset", devPtr, maxCount, value, count);
}

EMULATOR_API aclError aclrtMemsetAsync(void* devPtr, size_t maxCount, int32_t value, size_t count,
                                       aclrtStream) {
  return emulator::fill("aclrtMemsetAsync", devPtr, maxCount, value, count);
}

}  // extern "C"
