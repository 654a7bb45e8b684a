#include "hccl/process.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace hccl {
namespace {

struct Stat {
  char state;
  uint64_t start_time;
};

// From /proc/<pid>/stat: the third field and the 22nd, see proc(5). False when there is none.
bool read_stat(int32_t pid, Stat* stat) {
  char path[32];
  std::snprintf(path, sizeof(path), "/proc/%d/stat", pid);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char text[1024];
  const ssize_t length = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (length <= 0) return false;
  text[length] = '\0';
  // The second field is the program's name in parentheses, which may hold spaces and parentheses.
  const char* field = std::strrchr(text, ')');
  if (field == nullptr || field[1] != ' ') return false;
  stat->state = field[2];
  for (int i = 2; i < 22 && field != nullptr; ++i) field = std::strchr(field + 1, ' ');
  if (field == nullptr) return false;
  stat->start_time = std::strtoull(field + 1, nullptr, 10);
  return true;
}

uint64_t inode_of(const char* path) {
  struct stat status;
  return stat(path, &status) == 0 ? status.st_ino : 0;
}

}  // namespace

Process this_process() {
  Stat stat = {};
  read_stat(getpid(), &stat);
  return {static_cast<int32_t>(getpid()), stat.start_time};
}

bool is_alive(const Process& process) {
  Stat stat;
  if (!read_stat(process.pid, &stat)) return false;
  return stat.start_time == process.start_time && stat.state != 'Z' && stat.state != 'X';
}

uint64_t pid_namespace() { return inode_of("/proc/self/ns/pid"); }
uint64_t network_namespace() { return inode_of("/proc/self/ns/net"); }

}  // namespace hccl
