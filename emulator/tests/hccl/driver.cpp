// Stands in for the emulated runtime and for CANN's names, so that the collectives can be tested
// with nothing but a C++ compiler: memory is any memory, faults and chips are set by the test.

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "emulator.hpp"
#include "hccl/collectives.hpp"
#include "hccl/handles.hpp"
#include "hccl/point_to_point.hpp"

namespace {

int soc = emulator::k910B;
bool saturating = false;
bool overflow = false;
int32_t device = 0;
const void* host_memory = nullptr;
std::string fault_name;
uint64_t fault_at = 0;
std::string text;
std::map<std::string, uint64_t> launches, bytes_read, bytes_written;

using hccl::DataType;
using hccl::Parts;
using hccl::ReduceOp;

template <typename Body>
int with(void* handle, Body body) {
  std::shared_ptr<hccl::Communicator> comm;
  if (const int code = hccl::look_up("test", handle, &comm)) return code;
  return body(comm);
}

}  // namespace

namespace emulator {

int soc_class() { return soc; }
const char* soc_name() { return soc == k910B ? "Ascend910B1" : "Ascend910A"; }
int32_t current_device() { return device; }
int32_t owner(const void* pointer) { return pointer == host_memory ? -1 : device; }
bool within_allocation(const void*, uint64_t) { return true; }
void set_rank(int32_t) {}
bool busy_start() { return false; }
void warn(const std::string&) {}
bool saturates() { return saturating; }
void flag_overflow() { overflow = true; }

void kernel(const char* name, uint64_t read, uint64_t written, const std::string&) {
  ++launches[name];
  bytes_read[name] += read;
  bytes_written[name] += written;
}

bool fault(const char*, const char* name) {
  return name == fault_name && fault_at > 0 && --fault_at == 0;
}

int fail(int code, const std::string& what) {
  text = what;
  return code;
}

}  // namespace emulator

extern "C" {

uint64_t test_root_bytes() { return sizeof(hccl::RootInfo); }
const char* test_text() { return text.c_str(); }
void test_chip(int new_soc, bool saturates) {
  soc = new_soc;
  saturating = saturates;
}
void test_device(int32_t number) { device = number; }
void test_host_memory(const void* pointer) { host_memory = pointer; }
void test_fault(const char* name, uint64_t at) {
  fault_name = name;
  fault_at = at;
}
bool test_overflow() {
  const bool was = overflow;
  overflow = false;
  return was;
}
uint64_t test_launches(const char* name) { return launches[name]; }
uint64_t test_bytes_read(const char* name) { return bytes_read[name]; }
uint64_t test_bytes_written(const char* name) { return bytes_written[name]; }

int test_make_root(void* out) { return hccl::make_root(static_cast<hccl::RootInfo*>(out)); }

int test_create(const void* root, uint32_t size, uint32_t rank, const char* name,
                int64_t exec_timeout, void** out) {
  hccl::RootInfo info;
  std::memcpy(&info, root, sizeof(info));
  std::shared_ptr<hccl::Communicator> made;
  const int code = hccl::Communicator::create(info, size, rank, {name, exec_timeout}, &made);
  if (code == hccl::kSuccess) *out = hccl::keep(made);
  return code;
}

int test_create_sub(void* handle, const uint32_t* members, uint32_t size, uint64_t id,
                    uint32_t rank, void** out) {
  return with(handle, [&](auto& comm) {
    std::shared_ptr<hccl::Communicator> made;
    const int code = comm->create_sub({members, members + size}, id, rank, {}, &made);
    if (code == hccl::kSuccess) *out = hccl::keep(made);
    return code;
  });
}

int test_destroy(void* handle) { return hccl::forget("test", handle); }
int test_suspend(void* handle, bool on) {
  return with(handle, [&](auto& comm) {
    comm->suspend(on);
    return 0;
  });
}
int test_asynchronous_error(void* handle) {
  return with(handle, [&](auto& comm) { return comm->asynchronous_error(&text); });
}

int test_all_reduce(void* handle, const void* send, void* receive, uint64_t count, uint32_t dtype,
                    uint32_t op) {
  return with(handle, [&](auto& comm) {
    return hccl::all_reduce(*comm, send, receive, count, DataType(dtype), ReduceOp(op));
  });
}

int test_reduce(void* handle, const void* send, void* receive, uint64_t count, uint32_t dtype,
                uint32_t op, uint32_t root) {
  return with(handle, [&](auto& comm) {
    return hccl::reduce(*comm, send, receive, count, DataType(dtype), ReduceOp(op), root);
  });
}

int test_reduce_scatter_v(void* handle, const void* send, const uint64_t* counts,
                          const uint64_t* places, void* receive, uint64_t count, uint32_t dtype,
                          uint32_t op) {
  return with(handle, [&](auto& comm) {
    return hccl::reduce_scatter_v(*comm, send, Parts::given(comm->size(), counts, places), receive,
                                  count, DataType(dtype), ReduceOp(op));
  });
}

int test_broadcast(void* handle, void* buffer, uint64_t count, uint32_t dtype, uint32_t root) {
  return with(handle, [&](auto& comm) {
    return hccl::broadcast(*comm, buffer, count, DataType(dtype), root);
  });
}

int test_all_gather(void* handle, const void* send, void* receive, uint64_t count, uint32_t dtype) {
  return with(handle, [&](auto& comm) {
    return hccl::all_gather(*comm, send, receive, count, DataType(dtype));
  });
}

int test_all_gather_v(void* handle, const void* send, uint64_t count, void* receive,
                      const uint64_t* counts, const uint64_t* places, uint32_t dtype) {
  return with(handle, [&](auto& comm) {
    return hccl::all_gather_v(*comm, send, count, receive,
                              Parts::given(comm->size(), counts, places), DataType(dtype));
  });
}

int test_all_to_all_v(void* handle, const void* send, const uint64_t* send_counts,
                      const uint64_t* send_places, void* receive, const uint64_t* receive_counts,
                      const uint64_t* receive_places, uint32_t dtype) {
  return with(handle, [&](auto& comm) {
    return hccl::all_to_all_v(
        *comm, "HcclAlltoAllV", send, Parts::given(comm->size(), send_counts, send_places), receive,
        Parts::given(comm->size(), receive_counts, receive_places), DataType(dtype));
  });
}

int test_barrier(void* handle) {
  return with(handle, [](auto& comm) { return hccl::barrier(*comm); });
}

int test_transfer(void* handle, bool sends, void* buffer, uint64_t count, uint32_t dtype,
                  uint32_t peer) {
  return with(handle, [&](auto& comm) {
    return hccl::transfer_or_defer(comm, sends ? "HcclSend" : "HcclRecv",
                                   {sends, buffer, count, DataType(dtype), peer});
  });
}

}  // extern "C"
