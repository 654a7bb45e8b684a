#include "hccl/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#include "emulator.hpp"
#include "hccl/types.hpp"

namespace hccl {
namespace {

constexpr char kMagic[8] = {'s', 'f', 'n', 'h', 'c', 'c', 'l', '1'};

// Root infos of this process that not all ranks have opened yet. Never destroyed: communicators are
// taken down while the process ends.
struct Roots {
  std::mutex lock;
  std::map<uint64_t, int> fd_of_id;
};

Roots& roots() {
  static Roots* const value = new Roots;
  return *value;
}

int system_error(const std::string& what) {
  return emulator::fail(kSystemCall, "EI0007: " + what + ": " + std::strerror(errno));
}

std::string boot_id() {
  char text[sizeof(RootInfo::boot)] = {};
  const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    const ssize_t length = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    text[std::strcspn(text, "\n")] = '\0';
  }
  return text;
}

std::string who(const RootInfo& root) { return "process " + std::to_string(root.process.pid); }

// The emulator's HCCL is for one machine: says which assumption does not hold.
int check_reachable(const RootInfo& root) {
  if (std::memcmp(root.magic, kMagic, sizeof(kMagic)) != 0) {
    return emulator::fail(kParameter, "EI0003: the root info was not made by HcclGetRootInfo");
  }
  if (boot_id() != std::string(root.boot, strnlen(root.boot, sizeof(root.boot)))) {
    return emulator::fail(kNotSupported,
                          "EI0006: the root info comes from another machine; the emulated HCCL "
                          "joins processes of one machine only");
  }
  if (root.pid_namespace != pid_namespace()) {
    return emulator::fail(kNotSupported,
                          "EI0006: the root info comes from another PID namespace (another "
                          "container?); the emulated HCCL joins processes that see each other's "
                          "/proc");
  }
  return kSuccess;
}

}  // namespace

uint64_t random_id() {
  uint64_t id = 0;
  // Zero would mean a free slot where ids are kept.
  while (id == 0) {
    if (getrandom(&id, sizeof(id), 0) != sizeof(id)) id = 0;
  }
  return id;
}

int make_root(RootInfo* root) {
  const int fd = memfd_create("ascend-emulator-hccl", MFD_CLOEXEC);
  if (fd < 0) return system_error("cannot make shared memory");
  *root = RootInfo{};
  std::memcpy(root->magic, kMagic, sizeof(kMagic));
  root->id = random_id();
  if (pwrite(fd, &root->id, sizeof(root->id), 0) != sizeof(root->id)) {
    close(fd);
    return system_error("cannot write shared memory");
  }
  std::snprintf(root->boot, sizeof(root->boot), "%s", boot_id().c_str());
  root->pid_namespace = pid_namespace();
  root->process = this_process();
  root->fd = fd;
  const std::lock_guard<std::mutex> guard(roots().lock);
  roots().fd_of_id[root->id] = fd;
  return kSuccess;
}

int open_root(const RootInfo& root, int* fd) {
  {
    const std::lock_guard<std::mutex> guard(roots().lock);
    const auto own = roots().fd_of_id.find(root.id);
    if (own != roots().fd_of_id.end()) {
      *fd = fcntl(own->second, F_DUPFD_CLOEXEC, 0);
      return *fd < 0 ? system_error("cannot open shared memory") : kSuccess;
    }
  }
  if (const int code = check_reachable(root)) return code;
  char path[48];
  std::snprintf(path, sizeof(path), "/proc/%d/fd/%d", root.process.pid, root.fd);
  *fd = open(path, O_RDWR | O_CLOEXEC);
  const int reason = errno;
  if (!is_alive(root.process)) {
    if (*fd >= 0) close(*fd);
    return emulator::fail(kRemote, "EI0006: " + who(root) +
                                       ", which made the root info (rank 0), has ended before this "
                                       "rank could join its communicator");
  }
  if (*fd < 0 && reason != ENOENT) {
    errno = reason;
    return system_error("cannot open the shared memory of " + who(root) + " (rank 0) at " + path +
                        "; both must run as the same user");
  }
  // The number may by now belong to another file of that process, or to none.
  uint64_t id = 0;
  if (*fd < 0 || pread(*fd, &id, sizeof(id), 0) != sizeof(id) || id != root.id) {
    if (*fd >= 0) close(*fd);
    return emulator::fail(kNotFound,
                          "EI0006: " + who(root) +
                              " (rank 0) no longer holds the communicator that this rank "
                              "wants to join");
  }
  return kSuccess;
}

void release_root(const RootInfo& root) {
  const std::lock_guard<std::mutex> guard(roots().lock);
  const auto own = roots().fd_of_id.find(root.id);
  if (own == roots().fd_of_id.end()) return;
  close(own->second);
  roots().fd_of_id.erase(own);
}

int map_segment(int fd, uint64_t bytes, uint64_t file_bytes, void** address) {
  rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < file_bytes) {
    return emulator::fail(
        kMemory,
        "EI0007: the limit on file sizes (ulimit -f) also holds for shared memory "
        "and is too low; set it to unlimited");
  }
  struct stat status;
  if (fstat(fd, &status) != 0) return system_error("cannot look at shared memory");
  // Sparse: only the pages that are used take memory. Ranks may do this at once, to the same size.
  if (static_cast<uint64_t>(status.st_size) < file_bytes &&
      ftruncate(fd, static_cast<off_t>(file_bytes)) != 0) {
    return system_error("cannot grow shared memory to " + std::to_string(file_bytes) + " bytes");
  }
  *address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return *address == MAP_FAILED ? system_error("cannot map shared memory") : kSuccess;
}

}  // namespace hccl
