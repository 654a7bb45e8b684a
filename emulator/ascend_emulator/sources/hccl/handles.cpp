#include "hccl/handles.hpp"

#include <map>
#include <mutex>
#include <string>

#include "emulator.hpp"

namespace hccl {
namespace {

struct Handles {
  std::mutex lock;
  std::map<void*, std::shared_ptr<Communicator>> of_pointer;
};

// Never destroyed: torch_npu destroys communicators while the process ends.
Handles& handles() {
  static Handles* const value = new Handles;
  return *value;
}

}  // namespace

void* keep(std::shared_ptr<Communicator> comm) {
  const std::lock_guard<std::mutex> guard(handles().lock);
  void* const handle = comm.get();
  handles().of_pointer[handle] = std::move(comm);
  return handle;
}

int look_up(const char* name, void* handle, std::shared_ptr<Communicator>* comm) {
  const std::lock_guard<std::mutex> guard(handles().lock);
  const auto found = handles().of_pointer.find(handle);
  if (found == handles().of_pointer.end()) {
    return emulator::fail(handle == nullptr ? kPointer : kParameter,
                          "EI0003: " + std::string(name) +
                              (handle == nullptr ? ": the communicator is null"
                                                 : ": no such communicator; was it destroyed?"));
  }
  *comm = found->second;
  return kSuccess;
}

int forget(const char* name, void* handle) {
  std::shared_ptr<Communicator> comm;
  if (const int code = look_up(name, handle, &comm)) return code;
  comm->leave();
  const std::lock_guard<std::mutex> guard(handles().lock);
  handles().of_pointer.erase(handle);
  return kSuccess;
}

}  // namespace hccl
