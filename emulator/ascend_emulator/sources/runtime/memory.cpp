// Device memory is host memory, page by page, so that the end of an allocation is a real end.

#include "runtime/memory.hpp"

#include <acl/acl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "emulator.hpp"
#include "runtime/device.hpp"
#include "runtime/errors.hpp"
#include "runtime/settings.hpp"

namespace emulator {
namespace {

uint64_t whole_pages(uint64_t bytes) {
  static const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

int out_of_memory(const char* function, int32_t device, uint64_t bytes) {
  const MemoryUse use = memory_use(device);
  return fail(ACL_ERROR_RT_MEMORY_ALLOCATION,
              std::string(function) +
                  ": EL0004: Failed to allocate memory: " + std::to_string(bytes) +
                  " bytes asked for, " + std::to_string(settings().memory - use.bytes) + " of " +
                  std::to_string(settings().memory) + " free on device " + std::to_string(device));
}

aclError allocate(const char* function, void** pointer, size_t size) {
  if (pointer == nullptr || size == 0) {
    return invalid(function, pointer == nullptr ? "devPtr is null" : "size is 0");
  }
  const int32_t device = current_device();
  if (device < 0) return no_context(function);
  const uint64_t bytes = whole_pages(size);
  if (fault("alloc", function) || !take_memory(device, bytes)) {
    return out_of_memory(function, device, size);
  }
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) {
    give_memory_back(device, bytes);
    return out_of_memory(function, device, size);
  }
  add_block(start, bytes, device, false);
  recovered(ACL_ERROR_RT_MEMORY_ALLOCATION);
  *pointer = start;
  return ACL_SUCCESS;
}

struct Pinned {
  std::mutex lock;
  std::map<uintptr_t, uint64_t> blocks;
};

Pinned& pinned() {
  static Pinned* const value = new Pinned;
  return *value;
}

void pin(const void* pointer, uint64_t bytes) {
  const std::lock_guard<std::mutex> guard(pinned().lock);
  pinned().blocks[reinterpret_cast<uintptr_t>(pointer)] = bytes;
}

bool unpin(const void* pointer) {
  const std::lock_guard<std::mutex> guard(pinned().lock);
  return pinned().blocks.erase(reinterpret_cast<uintptr_t>(pointer)) == 1;
}

}  // namespace

bool is_pinned(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const std::lock_guard<std::mutex> guard(pinned().lock);
  auto next = pinned().blocks.upper_bound(address);
  if (next == pinned().blocks.begin()) return false;
  --next;
  return address < next->first + next->second;
}

}  // namespace emulator

extern "C" {

// Follows runtime@9.1.0 docs/03_api_ref/11-01_设备内存分配与释放.md
EMULATOR_API aclError aclrtMalloc(void** devPtr, size_t size, aclrtMemMallocPolicy) {
  return emulator::allocate("aclrtMalloc", devPtr, size);
}

EMULATOR_API aclError aclrtMallocAlign32(void** devPtr, size_t size, aclrtMemMallocPolicy) {
  return emulator::allocate("aclrtMallocAlign32", devPtr, size);
}

EMULATOR_API aclError aclrtMallocCached(void** devPtr, size_t size, aclrtMemMallocPolicy) {
  return emulator::allocate("aclrtMallocCached", devPtr, size);
}

EMULATOR_API aclError aclrtMallocWithCfg(void** devPtr, size_t size, aclrtMemMallocPolicy,
                                         aclrtMallocConfig*) {
  return emulator::allocate("aclrtMallocWithCfg", devPtr, size);
}

// Follows runtime@9.1.0 docs/03_api_ref/11-01_设备内存分配与释放.md
EMULATOR_API aclError aclrtFree(void* devPtr) {
  int32_t device = -1;
  const uint64_t bytes = emulator::remove_block(devPtr, &device);
  if (bytes == 0) {
    return emulator::invalid("aclrtFree", "the pointer is not the start of an allocation");
  }
  munmap(devPtr, bytes);
  emulator::give_memory_back(device, bytes);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/11-02_主机内存管理.md
EMULATOR_API aclError aclrtMallocHost(void** hostPtr, size_t size) {
  if (hostPtr == nullptr || size == 0) {
    return emulator::invalid("aclrtMallocHost",
                             hostPtr == nullptr ? "hostPtr is null" : "size is 0");
  }
  if (posix_memalign(hostPtr, 64, size) != 0) {
    return emulator::fail(ACL_ERROR_RT_MEMORY_ALLOCATION,
                          "aclrtMallocHost: the host has no " + std::to_string(size) + " bytes");
  }
  emulator::pin(*hostPtr, size);
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtMallocHostWithCfg(void** ptr, uint64_t size, aclrtMallocConfig*) {
  return aclrtMallocHost(ptr, size);
}

// Follows runtime@9.1.0 docs/03_api_ref/11-02_主机内存管理.md
EMULATOR_API aclError aclrtFreeHost(void* hostPtr) {
  if (!emulator::unpin(hostPtr)) {
    return emulator::invalid("aclrtFreeHost", "the pointer is not from aclrtMallocHost");
  }
  std::free(hostPtr);
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtHostRegister(void* ptr, uint64_t size, aclrtHostRegisterType,
                                        void** devPtr) {
  emulator::pin(ptr, size);
  if (devPtr != nullptr) *devPtr = ptr;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtHostRegisterV2(void* ptr, uint64_t size, uint32_t) {
  emulator::pin(ptr, size);
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtHostUnregister(void* ptr) {
  return emulator::unpin(ptr) ? ACL_SUCCESS
                              : emulator::invalid("aclrtHostUnregister", "not registered");
}

// Follows runtime@9.1.0 docs/03_api_ref/11-01_设备内存分配与释放.md
EMULATOR_API aclError aclrtGetMemInfo(aclrtMemAttr, size_t* free, size_t* total) {
  if (free == nullptr || total == nullptr) {
    return emulator::invalid("aclrtGetMemInfo", "free or total is null");
  }
  const int32_t device = emulator::current_device();
  if (device < 0) return emulator::no_context("aclrtGetMemInfo");
  *total = emulator::settings().memory;
  *free = *total - emulator::memory_use(device).bytes;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtPointerGetAttributes(const void* ptr, aclrtPtrAttributes* attributes) {
  if (attributes == nullptr) {
    return emulator::invalid("aclrtPointerGetAttributes", "attributes is null");
  }
  const int32_t device = emulator::owner(ptr);
  *attributes = aclrtPtrAttributes{};
  attributes->pageSize = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  attributes->location.type = device >= 0                ? ACL_MEM_LOCATION_TYPE_DEVICE
                              : emulator::is_pinned(ptr) ? ACL_MEM_LOCATION_TYPE_HOST
                                                         : ACL_MEM_LOCATION_TYPE_UNREGISTERED;
  attributes->location.id = device >= 0 ? static_cast<uint32_t>(device) : 0;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclrtMemFlush(void*, size_t) { return ACL_SUCCESS; }

EMULATOR_API aclError aclrtMemInvalidate(void*, size_t) { return ACL_SUCCESS; }

}  // extern "C"
