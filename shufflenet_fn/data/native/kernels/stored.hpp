// Samples as they are stored: whole files, or parts of shards.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "crc.hpp"
#include "resample.hpp"

namespace sfn {

// As `STORED` of `data/dataset.py` lays it out.
struct Stored {
  const char* path;     // of a file that is a sample, or null
  int64_t offset;       // of the sample in the shard `descriptor`
  int64_t size;         // of the sample in bytes
  int32_t descriptor;
  uint32_t height, width;  // of pixels; 0 of an encoded image
  uint32_t seed, checksum;  // the sample's CRC-32, continued from `seed`
  uint32_t unused;
};

namespace detail {

constexpr int64_t kLargestFile = int64_t{1} << 30;

inline void make_room(std::vector<uint8_t>& memory, int64_t bytes) {
  if (static_cast<int64_t>(memory.size()) < bytes + kSlack) memory.resize(static_cast<size_t>(bytes + kSlack));
}

inline bool read_fully(int descriptor, uint8_t* to, int64_t size, int64_t offset) {
  while (size > 0) {
    const ssize_t got = pread(descriptor, to, static_cast<size_t>(size), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    size -= got;
    offset += got;
  }
  return true;
}

// An open file, closed also where memory runs out.
class File {
 public:
  // Non-blocking: to open a named pipe would wait for its writer.
  explicit File(const char* path) : descriptor(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor >= 0) close(descriptor);
  }

  const int descriptor;
};

}  // namespace detail

// The content of a regular file. False if it cannot be had.
inline bool read_file(const char* path, std::vector<uint8_t>& memory, int64_t& size) {
  const detail::File file(path);
  struct stat status;
  if (file.descriptor < 0 || fstat(file.descriptor, &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_size > detail::kLargestFile)
    return false;
  size = status.st_size;
  detail::make_room(memory, size);
  return detail::read_fully(file.descriptor, memory.data(), size, 0);
}

// Part of a shard, checked. `memory` may grow to what its file holds.
inline bool read_record(const Stored& stored, std::vector<uint8_t>& memory) {
  if (stored.size < 0 || stored.size > detail::kLargestFile || stored.offset < 0) return false;
  struct stat status;
  if (fstat(stored.descriptor, &status) != 0 || status.st_size - stored.size < stored.offset) return false;
  detail::make_room(memory, stored.size);
  uint8_t* data = memory.data();
  if (!detail::read_fully(stored.descriptor, data, stored.size, stored.offset)) return false;
  return crc32(stored.seed, data, static_cast<size_t>(stored.size)) == stored.checksum;
}

}  // namespace sfn
