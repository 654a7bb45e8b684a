#include "runtime/settings.hpp"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "emulator.hpp"

namespace emulator {
namespace {

constexpr const char* kPrefix = "ASCEND_EMULATOR_";
constexpr int32_t kMostDevices = 64;

[[noreturn]] void refuse(const std::string& name, const std::string& value,
                         const std::string& allowed) {
  std::fprintf(stderr, "emulated CANN: %s is '%s'; it must be %s.\n", name.c_str(), value.c_str(),
               allowed.c_str());
  std::fflush(stderr);
  std::_Exit(2);
}

std::string variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// A whole number, or -1.
int64_t number(const std::string& text) {
  if (text.empty() || text.size() > 15) return -1;
  int64_t value = 0;
  for (char digit : text) {
    if (!std::isdigit(static_cast<unsigned char>(digit))) return -1;
    value = value * 10 + (digit - '0');
  }
  return value;
}

int32_t read_devices() {
  const std::string name = std::string(kPrefix) + "DEVICES";
  const std::string text = variable(name);
  if (text.empty()) return 1;
  const int64_t value = number(text);
  if (value < 0 || value > kMostDevices) {
    refuse(name, text, "a number of devices from 0 to " + std::to_string(kMostDevices));
  }
  return static_cast<int32_t>(value);
}

uint64_t read_memory(const Soc& soc) {
  const std::string name = std::string(kPrefix) + "MEMORY";
  const std::string text = variable(name);
  if (text.empty()) return soc.memory_bytes;
  size_t digits = 0;
  while (digits < text.size() && std::isdigit(static_cast<unsigned char>(text[digits]))) ++digits;
  const std::string unit = text.substr(digits);
  const int64_t value = number(text.substr(0, digits));
  const int shift = unit.empty() || unit == "B" ? 0
                    : unit == "KiB"             ? 10
                    : unit == "MiB"             ? 20
                    : unit == "GiB"             ? 30
                                                : -1;
  if (value <= 0 || shift < 0 || value > (int64_t{1} << (50 - shift))) {
    refuse(name, text, "a size such as 512MiB or 8GiB (units: B, KiB, MiB, GiB)");
  }
  return static_cast<uint64_t>(value) << shift;
}

Soc read_soc() {
  const std::string name = std::string(kPrefix) + "SOC";
  const std::string text = variable(name);
  const Soc* soc = find_soc(text.empty() ? "Ascend910B1" : text);
  if (soc == nullptr) refuse(name, text, "one of " + soc_names());
  return *soc;
}

std::vector<FaultRequest> read_faults() {
  const std::string name = std::string(kPrefix) + "FAULTS";
  const std::string text = variable(name);
  std::vector<FaultRequest> faults;
  for (const std::string& item : split(text, ',')) {
    const size_t at = item.find('@');
    const size_t colon = item.substr(0, at).find(':');
    const size_t hash = at == std::string::npos ? at : item.find('#', at);
    FaultRequest fault;
    fault.kind = item.substr(0, std::min(at, colon));
    fault.name = colon == std::string::npos ? "" : item.substr(colon + 1, at - colon - 1);
    const std::string nth = at == std::string::npos ? "" : item.substr(at + 1, hash - at - 1);
    const std::string rank = hash == std::string::npos ? "" : item.substr(hash + 1);
    const int64_t nth_value = number(nth);
    fault.nth = static_cast<uint64_t>(nth_value);
    fault.rank = static_cast<int32_t>(number(rank));
    const bool known = fault.kind == "alloc" || fault.kind == "op" || fault.kind == "overflow" ||
                       (fault.kind == "device" && fault.name == "busy") ||
                       (fault.kind == "hccl" && (fault.name == "hang" || fault.name == "kill" ||
                                                 fault.name == "async" || fault.name == "busy"));
    if (!known || nth_value < 1 || (hash != std::string::npos && fault.rank < 0)) {
      refuse(name, text,
             "a comma list of alloc@N, op@N, op:NAME@N, overflow@N, overflow:NAME@N, "
             "device:busy@N, hccl:hang@N, hccl:kill@N, hccl:async@N and hccl:busy@N with N from "
             "1, each with #RANK after it if only that rank shall fail");
    }
    faults.push_back(fault);
  }
  return faults;
}

// As CANN reads it: ids before the first that is not a device count, the rest are ignored.
std::vector<int32_t> read_visible(int32_t devices) {
  const char* text = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
  std::vector<int32_t> visible;
  if (text == nullptr) {
    for (int32_t id = 0; id < devices; ++id) visible.push_back(id);
    return visible;
  }
  for (const std::string& item : split(text, ',')) {
    const int64_t id = number(item);
    if (id < 0 || id >= devices) break;
    visible.push_back(static_cast<int32_t>(id));
  }
  return visible;
}

Settings read() {
  Settings read;
  read.soc = read_soc();
  read.visible = read_visible(read_devices());
  read.memory = read_memory(read.soc);
  read.faults = read_faults();
  read.report = variable(std::string(kPrefix) + "REPORT");
  return read;
}

}  // namespace

const Settings& settings() {
  // Never destroyed: the report is written after the destructors of other libraries may have run.
  static const Settings* const values = new Settings(read());
  return *values;
}

int soc_class() { return settings().soc.soc_class; }
const char* soc_name() { return settings().soc.name; }
int32_t device_count() { return static_cast<int32_t>(settings().visible.size()); }

}  // namespace emulator
