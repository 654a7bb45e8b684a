#include "hccl/point_to_point.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "emulator.hpp"
#include "hccl/buffers.hpp"
#include "hccl/exchange.hpp"

namespace hccl {
namespace {

// All bytes to or from the shared file; `move` is pread or pwrite. A Code.
template <typename Move, typename Byte>
int move_all(Communicator& comm, const std::string& what, Move move, Byte* data, uint64_t bytes,
             uint64_t offset) {
  while (bytes > 0) {
    const ssize_t moved = move(comm.file(), data, bytes, static_cast<off_t>(offset));
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) {
      return comm.fail(kSystemCall, "EI0007: " + what + ": shared memory: " + std::strerror(errno));
    }
    data += moved;
    bytes -= moved;
    offset += moved;
  }
  return kSuccess;
}

std::string describe_transfer(const Communicator& comm, const char* name, uint32_t from,
                              uint32_t to) {
  return std::string(name) + " from rank " + std::to_string(from) + " to rank " +
         std::to_string(to) + " of communicator " + comm.name();
}

// A place in this rank's region of the file. All of it is free again when all messages were taken;
// it is so large that waiting for that happens to nobody who does not send without end.
int reserve(Communicator& comm, const std::string& what, uint64_t bytes, uint64_t* offset) {
  const auto pending = [&comm] {
    std::vector<uint32_t> ranks;
    for (uint32_t to = 0; to < comm.size(); ++to) {
      const Channel& channel = comm.channel(comm.rank(), to);
      if (channel.taken.load(std::memory_order_acquire) != channel.sent) ranks.push_back(to);
    }
    return ranks;
  };
  if (bytes > Layout::kOutboxBytes) {
    return comm.fail(kMemory, what + ": " + std::to_string(bytes) + " bytes are too many");
  }
  if (pending().empty()) comm.outbox_end = 0;
  if (comm.outbox_end + bytes > Layout::kOutboxBytes) {
    const Deadline deadline(comm.exec_timeout());
    for (const uint32_t to : pending()) {
      const Channel& channel = comm.channel(comm.rank(), to);
      const int code = comm.await(channel.taken, channel.sent, deadline, what, pending);
      if (code != kSuccess) return code;
    }
    comm.outbox_end = 0;
  }
  *offset = comm.layout().outboxes + comm.rank() * Layout::kOutboxBytes + comm.outbox_end;
  comm.outbox_end = Layout::align(comm.outbox_end + bytes);
  return kSuccess;
}

int send(Communicator& comm, const char* name, const Transfer& transfer) {
  const std::lock_guard<std::mutex> guard(comm.send_lock);
  const std::string what = describe_transfer(comm, name, comm.rank(), transfer.peer);
  Channel& channel = comm.channel(comm.rank(), transfer.peer);
  const uint32_t number = channel.sent;
  const uint64_t bytes = transfer.count * size_of(transfer.dtype);
  // Until there is room for one more message.
  const int room =
      comm.await(channel.taken, number - kMaxMessages + 1, Deadline(comm.exec_timeout()), what,
                 [&] { return std::vector<uint32_t>{transfer.peer}; });
  if (room != kSuccess) return room;
  uint64_t offset = 0;
  if (const int code = reserve(comm, what, bytes, &offset)) return code;
  const int code =
      move_all(comm, what, pwrite, static_cast<const uint8_t*>(transfer.buffer), bytes, offset);
  if (code != kSuccess) return code;
  channel.messages[number % kMaxMessages] = {offset, transfer.count, transfer.dtype};
  channel.sent.store(number + 1, std::memory_order_release);
  announce(channel.sent);
  emulator::kernel(name, bytes, 0);
  return kSuccess;
}

int receive(Communicator& comm, const char* name, const Transfer& transfer) {
  const std::lock_guard<std::mutex> guard(comm.receive_lock);
  const std::string what = describe_transfer(comm, name, transfer.peer, comm.rank());
  Channel& channel = comm.channel(transfer.peer, comm.rank());
  const uint32_t number = channel.taken;
  const int sent = comm.await(channel.sent, number + 1, Deadline(comm.exec_timeout()), what,
                              [&] { return std::vector<uint32_t>{transfer.peer}; });
  if (sent != kSuccess) return sent;
  const Message message = channel.messages[number % kMaxMessages];
  if (message.count != transfer.count || message.dtype != transfer.dtype) {
    return comm.fail(kParameter, "EI0005: " + what + ": sent are " + std::to_string(message.count) +
                                     " elements of " + name_of(message.dtype) + ", expected " +
                                     std::to_string(transfer.count) + " of " +
                                     name_of(transfer.dtype));
  }
  const uint64_t bytes = message.count * size_of(message.dtype);
  const int code =
      move_all(comm, what, pread, static_cast<uint8_t*>(transfer.buffer), bytes, message.offset);
  if (code != kSuccess) return code;
  // The memory goes back to the system; the sender may reuse the place.
  fallocate(comm.file(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
            static_cast<off_t>(message.offset), static_cast<off_t>(Layout::align(bytes)));
  channel.taken.store(number + 1, std::memory_order_release);
  announce(channel.taken);
  emulator::kernel(name, 0, bytes);
  return kSuccess;
}

int check(Communicator& comm, const char* name, const Transfer& transfer) {
  int code = comm.check_usable();
  if (code == kSuccess) code = check_dtype(comm, name, transfer.dtype);
  if (code == kSuccess && transfer.peer >= comm.size()) {
    code = comm.fail(kParameter, "EI0003: " + std::string(name) + ": rank " +
                                     std::to_string(transfer.peer) + " is not one of the " +
                                     std::to_string(comm.size()) + " ranks");
  }
  if (code == kSuccess) {
    code = check_buffer(comm, name, transfer.sends ? "send" : "receive", transfer.buffer,
                        transfer.count, transfer.dtype);
  }
  return code;
}

int run(Communicator& comm, const char* name, const Transfer& transfer) {
  if (const int code = check(comm, name, transfer)) return code;
  return transfer.sends ? send(comm, name, transfer) : receive(comm, name, transfer);
}

struct Deferred {
  std::shared_ptr<Communicator> comm;
  const char* name;
  Transfer transfer;
};

thread_local uint32_t group_depth = 0;
thread_local std::vector<Deferred> deferred;

}  // namespace

int transfer(Communicator& comm, const char* name, const Transfer& transfer) {
  if (const int code = inject_faults(comm, name)) return code;
  return run(comm, name, transfer);
}

int transfer_all(Communicator& comm, const char* name, const std::vector<Transfer>& transfers) {
  if (const int code = inject_faults(comm, name)) return code;
  for (const bool sends : {true, false}) {
    for (const Transfer& each : transfers) {
      if (each.sends != sends) continue;
      if (const int code = run(comm, name, each)) return code;
    }
  }
  return kSuccess;
}

int begin_group() {
  ++group_depth;
  return kSuccess;
}

int end_group() {
  if (group_depth == 0) {
    return emulator::fail(kParameter, "EI0003: HcclGroupEnd without HcclGroupStart");
  }
  if (--group_depth > 0) return kSuccess;
  std::vector<Deferred> now;
  now.swap(deferred);
  for (const Deferred& each : now) {
    if (const int code = transfer(*each.comm, each.name, each.transfer)) return code;
  }
  return kSuccess;
}

int transfer_or_defer(const std::shared_ptr<Communicator>& comm, const char* name,
                      const Transfer& each) {
  if (group_depth > 0 && !each.sends) {
    deferred.push_back({comm, name, each});
    return kSuccess;
  }
  return transfer(*comm, name, each);
}

}  // namespace hccl
