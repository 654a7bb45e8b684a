// The memory that the ranks of a communicator share.
//
// It has no name: a memfd that lives while a process holds it and is gone with the last of them,
// however they end. The others open it through /proc/<pid>/fd of the process that made the root
// info, which needs neither a network nor a folder in common, only that they see each other's
// /proc.

#ifndef ASCEND_EMULATOR_HCCL_SEGMENT_HPP_
#define ASCEND_EMULATOR_HCCL_SEGMENT_HPP_

#include <cstdint>
#include <string>

#include "hccl/process.hpp"

namespace hccl {

// What HcclRootInfo holds: all that another process needs to find the memory. Plain bytes, since it
// travels through a store.
struct RootInfo {
  char magic[8];
  uint64_t id;
  char boot[40];  // which machine: the kernel's random boot id
  uint64_t pid_namespace;
  Process process;
  int32_t fd;
};

// Makes a new segment, which begins with its id, held open by this process until release_root().
// Returns a Code.
int make_root(RootInfo* root);

// A file descriptor of the segment, the caller's to close. Returns a Code.
int open_root(const RootInfo& root, int* fd);

// Lets go of the segment where this process made it; after all ranks have opened it.
void release_root(const RootInfo& root);

// Maps the first `bytes` of the segment, growing it to `file_bytes` before. Returns a Code.
int map_segment(int fd, uint64_t bytes, uint64_t file_bytes, void** address);

// A number that two calls, in whatever process, do not both return.
uint64_t random_id();

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_SEGMENT_HPP_
