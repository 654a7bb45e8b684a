// Which device owns which addresses, and how much of its memory is taken.

#include <algorithm>
#include <map>
#include <mutex>

#include "emulator.hpp"
#include "runtime/memory.hpp"
#include "runtime/settings.hpp"

namespace emulator {
namespace {

struct Block {
  uint64_t bytes;
  int32_t device;
  bool joined;
};

struct Table {
  std::mutex lock;
  std::map<uintptr_t, Block> blocks;
  std::map<int32_t, MemoryUse> use;
};

Table& table() {
  static Table* const value = new Table;
  return *value;
}

// The block that holds the address; end() when there is none. The lock must be held.
std::map<uintptr_t, Block>::const_iterator holding(const Table& table, uintptr_t address) {
  auto next = table.blocks.upper_bound(address);
  if (next == table.blocks.begin()) return table.blocks.end();
  --next;
  return address < next->first + next->second.bytes ? next : table.blocks.end();
}

uintptr_t address_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

}  // namespace

MemoryUse memory_use(int32_t device) {
  Table& all = table();
  const std::lock_guard<std::mutex> guard(all.lock);
  return all.use[device];
}

bool take_memory(int32_t device, uint64_t bytes) {
  Table& all = table();
  const std::lock_guard<std::mutex> guard(all.lock);
  MemoryUse& use = all.use[device];
  if (bytes > settings().memory - use.bytes) return false;
  use.bytes += bytes;
  use.peak = std::max(use.peak, use.bytes);
  use.allocations += 1;
  return true;
}

void give_memory_back(int32_t device, uint64_t bytes) {
  Table& all = table();
  const std::lock_guard<std::mutex> guard(all.lock);
  all.use[device].bytes -= bytes;
}

void add_block(void* start, uint64_t bytes, int32_t device, bool joined) {
  Table& all = table();
  const std::lock_guard<std::mutex> guard(all.lock);
  all.blocks[address_of(start)] = Block{bytes, device, joined};
}

uint64_t remove_block(void* start, int32_t* device) {
  Table& all = table();
  const std::lock_guard<std::mutex> guard(all.lock);
  const auto found = all.blocks.find(address_of(start));
  if (found == all.blocks.end()) return 0;
  const Block block = found->second;
  all.blocks.erase(found);
  if (device != nullptr) *device = block.device;
  return block.bytes;
}

int32_t owner(const void* pointer) {
  Table& all = table();
  const std::lock_guard<std::mutex> guard(all.lock);
  const auto found = holding(all, address_of(pointer));
  return found == all.blocks.end() ? -1 : found->second.device;
}

bool within_allocation(const void* pointer, uint64_t bytes) {
  if (bytes == 0) return true;
  Table& all = table();
  const std::lock_guard<std::mutex> guard(all.lock);
  const uintptr_t end = address_of(pointer) + bytes;
  auto block = holding(all, address_of(pointer));
  if (block == all.blocks.end()) return false;
  const int32_t device = block->second.device;
  while (true) {
    const uintptr_t block_end = block->first + block->second.bytes;
    if (end <= block_end) return true;
    const bool joined = block->second.joined;
    ++block;
    if (!joined || block == all.blocks.end() || block->first != block_end ||
        !block->second.joined || block->second.device != device) {
      return false;
    }
  }
}

}  // namespace emulator
