#ifndef ASCEND_EMULATOR_RUNTIME_MEMORY_HPP_
#define ASCEND_EMULATOR_RUNTIME_MEMORY_HPP_

#include <cstddef>
#include <cstdint>

namespace emulator {

struct MemoryUse {
  uint64_t bytes = 0;
  uint64_t peak = 0;
  uint64_t allocations = 0;
};

MemoryUse memory_use(int32_t device);

// Takes `bytes` of the device's memory, or returns false: then there is not as much left.
bool take_memory(int32_t device, uint64_t bytes);
void give_memory_back(int32_t device, uint64_t bytes);

// Blocks of device memory by address. A joined block continues a neighbour of the same device: a
// tensor in an expandable segment may cross from one to the next.
void add_block(void* start, uint64_t bytes, int32_t device, bool joined);
// The size of the block that starts there, 0 when there is none; device is set where not nullptr.
uint64_t remove_block(void* start, int32_t* device);

// True for memory from aclrtMallocHost and memory registered with aclrtHostRegister.
bool is_pinned(const void* pointer);

}  // namespace emulator

#endif  // ASCEND_EMULATOR_RUNTIME_MEMORY_HPP_
