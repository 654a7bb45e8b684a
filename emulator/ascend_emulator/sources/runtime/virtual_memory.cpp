// Address ranges and physical memory apart from each other: torch_npu's expandable segments.

#include <acl/acl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <set>
#include <string>

#include "emulator.hpp"
#include "runtime/device.hpp"
#include "runtime/errors.hpp"
#include "runtime/memory.hpp"

namespace emulator {
namespace {

struct Physical {
  int file;
  uint64_t bytes;
  int32_t device;
  bool mapped = false;
  bool freed = false;
};

struct VirtualMemory {
  std::mutex lock;
  std::map<uintptr_t, uint64_t> reserved;
  std::set<Physical*> handles;
  std::map<uintptr_t, Physical*> mapped;  // by where
};

VirtualMemory& virtual_memory() {
  static VirtualMemory* const value = new VirtualMemory;
  return *value;
}

Physical* find_handle(aclrtDrvMemHandle handle) {
  auto* physical = static_cast<Physical*>(handle);
  const std::lock_guard<std::mutex> guard(virtual_memory().lock);
  return virtual_memory().handles.count(physical) == 1 ? physical : nullptr;
}

// Memory that is freed while it is mapped stays until it is unmapped.
void give_back(Physical* physical) {
  give_memory_back(physical->device, physical->bytes);
  delete physical;
}

// True when the range lies within one reservation.
bool is_reserved(const void* start, uint64_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(start);
  const std::lock_guard<std::mutex> guard(virtual_memory().lock);
  auto next = virtual_memory().reserved.upper_bound(address);
  if (next == virtual_memory().reserved.begin()) return false;
  --next;
  return address + bytes <= next->first + next->second;
}

bool page_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)) == 0;
}

}  // namespace
}  // namespace emulator

extern "C" {

// Follows runtime@9.1.0 docs/03_api_ref/11-04_虚拟内存管理.md
EMULATOR_API aclError aclrtReserveMemAddress(void** virPtr, size_t size, size_t alignment, void*,
                                             uint64_t) {
  if (virPtr == nullptr || size == 0) {
    return emulator::invalid("aclrtReserveMemAddress",
                             virPtr == nullptr ? "virPtr is null" : "size is 0");
  }
  if (alignment != 0) return emulator::invalid("aclrtReserveMemAddress", "alignment is not 0");
  void* start = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) {
    return emulator::fail(
        ACL_ERROR_RT_MEMORY_ALLOCATION,
        "aclrtReserveMemAddress: the host has no range of " + std::to_string(size) + " bytes");
  }
  auto& memory = emulator::virtual_memory();
  const std::lock_guard<std::mutex> guard(memory.lock);
  memory.reserved[reinterpret_cast<uintptr_t>(start)] = size;
  *virPtr = start;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/11-04_虚拟内存管理.md
EMULATOR_API aclError aclrtReleaseMemAddress(void* virPtr) {
  auto& memory = emulator::virtual_memory();
  const std::lock_guard<std::mutex> guard(memory.lock);
  const auto found = memory.reserved.find(reinterpret_cast<uintptr_t>(virPtr));
  if (found == memory.reserved.end()) {
    return emulator::invalid("aclrtReleaseMemAddress", "not the start of a reserved range");
  }
  munmap(virPtr, found->second);
  memory.reserved.erase(found);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/11-04_虚拟内存管理.md
EMULATOR_API aclError aclrtMallocPhysical(aclrtDrvMemHandle* handle, size_t size,
                                          const aclrtPhysicalMemProp* prop, uint64_t flags) {
  if (handle == nullptr || size == 0 || prop == nullptr || flags != 0) {
    return emulator::invalid("aclrtMallocPhysical",
                             "handle or prop is null, size is 0, or flags is not 0");
  }
  const auto device = static_cast<int32_t>(prop->location.id);
  if (!emulator::is_device(device)) return emulator::no_such_device("aclrtMallocPhysical", device);
  if (emulator::fault("alloc", "aclrtMallocPhysical") || !emulator::take_memory(device, size)) {
    return emulator::fail(
        ACL_ERROR_RT_MEMORY_ALLOCATION,
        "aclrtMallocPhysical: EL0004: Failed to allocate memory: " + std::to_string(size) +
            " bytes asked for on device " + std::to_string(device));
  }
  const int file = memfd_create("emulated-cann", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(size)) != 0) {
    if (file >= 0) close(file);
    emulator::give_memory_back(device, size);
    return emulator::fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "aclrtMallocPhysical: the host has no " +
                                                              std::to_string(size) + " bytes");
  }
  auto* physical = new emulator::Physical{file, size, device};
  auto& memory = emulator::virtual_memory();
  const std::lock_guard<std::mutex> guard(memory.lock);
  memory.handles.insert(physical);
  emulator::recovered(ACL_ERROR_RT_MEMORY_ALLOCATION);
  *handle = physical;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/11-04_虚拟内存管理.md
EMULATOR_API aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  emulator::Physical* physical = emulator::find_handle(handle);
  if (physical == nullptr) return emulator::invalid("aclrtFreePhysical", "no such handle");
  close(physical->file);
  auto& memory = emulator::virtual_memory();
  const std::lock_guard<std::mutex> guard(memory.lock);
  memory.handles.erase(physical);
  physical->freed = true;
  if (!physical->mapped) emulator::give_back(physical);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/11-04_虚拟内存管理.md
EMULATOR_API aclError aclrtMapMem(void* virPtr, size_t size, size_t offset,
                                  aclrtDrvMemHandle handle, uint64_t flags) {
  emulator::Physical* physical = emulator::find_handle(handle);
  if (physical == nullptr) return emulator::invalid("aclrtMapMem", "no such handle");
  if (!emulator::is_reserved(virPtr, size) || !emulator::page_aligned(virPtr) ||
      offset != 0 || flags != 0 || size != physical->bytes) {
    return emulator::invalid("aclrtMapMem",
                             "the range is not reserved, not aligned or not as long as the memory, "
                             "or offset or flags is not 0");
  }
  if (mmap(virPtr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, physical->file,
           static_cast<off_t>(offset)) == MAP_FAILED) {
    return emulator::fail(ACL_ERROR_RT_INTERNAL_ERROR, "aclrtMapMem: the host refused the mapping");
  }
  emulator::add_block(virPtr, size, physical->device, true);
  auto& memory = emulator::virtual_memory();
  const std::lock_guard<std::mutex> guard(memory.lock);
  physical->mapped = true;
  memory.mapped[reinterpret_cast<uintptr_t>(virPtr)] = physical;
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/11-04_虚拟内存管理.md
EMULATOR_API aclError aclrtUnmapMem(void* virPtr) {
  const uint64_t bytes = emulator::remove_block(virPtr, nullptr);
  if (bytes == 0) return emulator::invalid("aclrtUnmapMem", "nothing is mapped there");
  // The range stays reserved; touching it is an error again.
  mmap(virPtr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  auto& memory = emulator::virtual_memory();
  const std::lock_guard<std::mutex> guard(memory.lock);
  const auto found = memory.mapped.find(reinterpret_cast<uintptr_t>(virPtr));
  emulator::Physical* const physical = found->second;
  memory.mapped.erase(found);
  physical->mapped = false;
  if (physical->freed) emulator::give_back(physical);
  return ACL_SUCCESS;
}

// Follows runtime@9.1.0 docs/03_api_ref/11-04_虚拟内存管理.md
EMULATOR_API aclError aclrtMemGetAllocationGranularity(aclrtPhysicalMemProp*,
                                                       aclrtMemGranularityOptions,
                                                       size_t* granularity) {
  if (granularity == nullptr) {
    return emulator::invalid("aclrtMemGetAllocationGranularity", "granularity is null");
  }
  *granularity = size_t{2} << 20;
  return ACL_SUCCESS;
}

}  // extern "C"
