// Counts by device, handed out as JSON: to a process that asks, and to a file when it ends.

#include "runtime/counters.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>

#include "emulator.hpp"
#include "runtime/memory.hpp"
#include "runtime/settings.hpp"

namespace emulator {
namespace {

constexpr size_t kMostSignatures = 4096;

struct KernelCount {
  uint64_t launches = 0;
  uint64_t read = 0;
  uint64_t written = 0;
  std::map<std::string, uint64_t> signatures;
};

struct CopyCount {
  uint64_t copies = 0;
  uint64_t bytes = 0;
};

struct DeviceCounts {
  std::map<std::string, KernelCount> kernels;
  std::map<std::string, uint64_t> syncs;
  std::map<std::string, CopyCount> copies;
  bool busy = false;  // has had work since the host last waited for it
};

struct Counts {
  std::mutex lock;
  std::map<int32_t, DeviceCounts> devices;
  bool used = false;
};

// Never destroyed: other libraries still launch while the process ends.
Counts& counts() {
  static Counts* const value = new Counts;
  return *value;
}

template <typename Change>
void on_current_device(Change change) {
  Counts& all = counts();
  const int32_t device = std::max(current_device(), 0);
  const std::lock_guard<std::mutex> guard(all.lock);
  change(all.devices[device]);
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') result += '\\';
    // No name that is counted has control characters; they would make the file unreadable.
    result += static_cast<unsigned char>(letter) < 0x20 ? ' ' : letter;
  }
  return result + '"';
}

template <typename Map, typename Write>
void write_object(std::ostream& out, const Map& map, Write write) {
  out << "{";
  const char* separator = "";
  for (const auto& entry : map) {
    out << separator << quoted(entry.first) << ": ";
    write(entry.second);
    separator = ", ";
  }
  out << "}";
}

void write_device(std::ostream& out, int32_t device, const DeviceCounts& counted) {
  const MemoryUse memory = memory_use(device);
  out << "{\"kernels\": ";
  write_object(out, counted.kernels, [&](const KernelCount& kernel) {
    out << "{\"launches\": " << kernel.launches << ", \"bytes_read\": " << kernel.read
        << ", \"bytes_written\": " << kernel.written << ", \"signatures\": ";
    write_object(out, kernel.signatures, [&](uint64_t times) { out << times; });
    out << "}";
  });
  out << ", \"syncs\": ";
  write_object(out, counted.syncs, [&](uint64_t times) { out << times; });
  out << ", \"copies\": ";
  write_object(out, counted.copies, [&](const CopyCount& copy) {
    out << "{\"copies\": " << copy.copies << ", \"bytes\": " << copy.bytes << "}";
  });
  out << ", \"memory\": {\"allocations\": " << memory.allocations << ", \"bytes\": " << memory.bytes
      << ", \"peak_bytes\": " << memory.peak << "}}";
}

void write_report() {
  const std::string& pattern = settings().report;
  if (pattern.empty() || !counts().used) return;
  std::string path = pattern;
  const std::string mark = "{pid}";
  const size_t at = path.find(mark);
  const std::string pid = std::to_string(getpid());
  if (at == std::string::npos) {
    path += "." + pid;
  } else {
    path.replace(at, mark.size(), pid);
  }
  // Written beside and renamed, so that a reader never sees half of it.
  const std::string scratch = path + ".part";
  std::FILE* file = std::fopen(scratch.c_str(), "w");
  const std::string text = counters_json() + "\n";
  const bool written =
      file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (file != nullptr && std::fclose(file) == 0 && written &&
      std::rename(scratch.c_str(), path.c_str()) == 0) {
    return;
  }
  warn("cannot write the report to " + path + ": " + std::strerror(errno));
}

__attribute__((destructor)) void at_exit() { write_report(); }

// A forked child reports what it did itself, not what its parent had done before.
void in_child() {
  new (&counts().lock) std::mutex;
  counts().used = false;
  counts().devices.clear();
}

__attribute__((constructor)) void at_load() { pthread_atfork(nullptr, nullptr, in_child); }

}  // namespace

void kernel(const char* name, uint64_t bytes_read, uint64_t bytes_written,
            const std::string& signature) {
  on_current_device([&](DeviceCounts& device) {
    KernelCount& kernel = device.kernels[name];
    kernel.launches += 1;
    kernel.read += bytes_read;
    kernel.written += bytes_written;
    // A number that changes with every call, such as a seed, must not fill the memory.
    const bool known = kernel.signatures.size() < kMostSignatures ||
                       kernel.signatures.find(signature) != kernel.signatures.end();
    kernel.signatures[known ? signature : ""] += 1;
    device.busy = true;
  });
}

void host_sync(const char* what) {
  on_current_device([&](DeviceCounts& device) {
    device.syncs[what] += 1;
    device.busy = false;
  });
}

void blocking_copy_to_host(const char* what) {
  on_current_device([&](DeviceCounts& device) {
    if (device.busy) device.syncs[what] += 1;
    device.busy = false;
  });
}

void copied(const char* direction, uint64_t bytes) {
  on_current_device([&](DeviceCounts& device) {
    CopyCount& copy = device.copies[direction];
    copy.copies += 1;
    copy.bytes += bytes;
    device.busy = true;
  });
}

void mark_used() { counts().used = true; }

std::string counters_json() {
  Counts& all = counts();
  std::ostringstream out;
  out << "{\"version\": 1, \"pid\": " << getpid() << ", \"rank\": " << rank()
      << ", \"soc\": " << quoted(soc_name()) << ", \"devices\": {";
  const std::lock_guard<std::mutex> guard(all.lock);
  const char* separator = "";
  for (int32_t device = 0; device < device_count(); ++device) {
    const auto found = all.devices.find(device);
    if (found == all.devices.end() && memory_use(device).allocations == 0) continue;
    out << separator << "\"" << device << "\": ";
    write_device(out, device, found == all.devices.end() ? DeviceCounts{} : found->second);
    separator = ", ";
  }
  out << "}}";
  return out.str();
}

void reset_counters() {
  Counts& all = counts();
  const std::lock_guard<std::mutex> guard(all.lock);
  for (auto& entry : all.devices) {
    const bool busy = entry.second.busy;
    entry.second = DeviceCounts{};
    entry.second.busy = busy;
  }
}

}  // namespace emulator

// For counters.py, through ctypes.
extern "C" {

EMULATOR_API void emulator_counters_reset() { emulator::reset_counters(); }

// The caller frees it with emulator_text_free.
EMULATOR_API char* emulator_counters_json() { return strdup(emulator::counters_json().c_str()); }

EMULATOR_API void emulator_text_free(char* text) { std::free(text); }

}  // extern "C"
