// The collectives that compute.

#include <algorithm>
#include <cstring>

#include "emulator.hpp"
#include "hccl/buffers.hpp"
#include "hccl/collectives.hpp"
#include "hccl/exchange.hpp"
#include "hccl/pieces.hpp"
#include "hccl/reduce.hpp"

namespace hccl {
namespace {

// To the root alone, or to all ranks where `call.root` is kNoRoot.
int reduce_to(Communicator& comm, const Call& call, const uint8_t* send, uint8_t* receive) {
  const uint64_t width = size_of(call.dtype);
  const bool receives = call.root == kNoRoot || call.root == comm.rank();
  int code = check_reduction(comm, call.name, call.dtype, call.op);
  if (code == kSuccess && call.root != kNoRoot) code = check_root(comm, call.name, call.root);
  if (code == kSuccess) {
    code = check_buffer(comm, call.name, "send", send, call.count, call.dtype);
  }
  if (code == kSuccess && receives) {
    code = check_buffer(comm, call.name, "receive", receive, call.count, call.dtype);
  }
  if (code != kSuccess) return code;

  Exchange exchange(comm, call);
  if (const int failed = exchange.start()) return failed;
  emulator::kernel(call.name, call.count * width, receives ? call.count * width : 0);
  const uint64_t most = exchange.capacity() / width;
  for (uint64_t done = 0; done < call.count; done += most) {
    const uint64_t now = std::min(most, call.count - done);
    const auto begin = [&comm, now](uint32_t rank) { return now * rank / comm.size(); };
    std::memcpy(exchange.own(), send + done * width, now * width);
    if (const int failed = exchange.sync()) return failed;
    // Each rank reduces its share, in the other of its buffers.
    const uint64_t first = begin(comm.rank());
    const uint64_t share = begin(comm.rank() + 1) - first;
    uint8_t* const reduced = exchange.own() + first * width;
    std::memcpy(reduced, exchange.of(0) + first * width, share * width);
    for (uint32_t rank = 1; rank < comm.size(); ++rank) {
      reduce(reduced, exchange.of(rank) + first * width, share, call.dtype, call.op);
    }
    if (const int failed = exchange.sync()) return failed;
    for (uint32_t rank = 0; receives && rank < comm.size(); ++rank) {
      std::memcpy(receive + (done + begin(rank)) * width, exchange.of(rank) + begin(rank) * width,
                  (begin(rank + 1) - begin(rank)) * width);
    }
  }
  return kSuccess;
}

int reduce_scatter_parts(Communicator& comm, const Call& call, const uint8_t* send,
                         const Parts& sends, uint8_t* receive, uint64_t count, bool counted) {
  const uint64_t width = size_of(call.dtype);
  int code = check_reduction(comm, call.name, call.dtype, call.op);
  if (code == kSuccess) {
    code = check_buffer(comm, call.name, "send", send, sends.extent(), call.dtype);
  }
  if (code == kSuccess) code = check_buffer(comm, call.name, "receive", receive, count, call.dtype);
  if (code != kSuccess) return code;

  Exchange exchange(comm, call);
  Counts counts;
  if (counted) counts = {sends.counts, std::vector<uint64_t>(comm.size(), count)};
  if (const int failed = exchange.start(counts)) return failed;
  uint64_t total = 0;
  for (const uint64_t part : sends.counts) total += part;
  emulator::kernel(call.name, total * width, count * width);
  return exchange_pieces(
      comm, exchange, send, sends, width, [&](uint64_t offset, const Piece& piece_from) {
        const uint64_t now =
            offset < count ? std::min(piece_capacity(comm, width), count - offset) : 0;
        uint8_t* const reduced = receive + offset * width;
        if (now != 0) std::memcpy(reduced, piece_from(0), now * width);
        for (uint32_t rank = 1; rank < comm.size(); ++rank) {
          reduce(reduced, piece_from(rank), now, call.dtype, call.op);
        }
      });
}

}  // namespace

int all_reduce(Communicator& comm, const void* send, void* receive, uint64_t count, DataType dtype,
               ReduceOp op) {
  return reduce_to(comm, {"HcclAllReduce", dtype, op, true, kNoRoot, count},
                   static_cast<const uint8_t*>(send), static_cast<uint8_t*>(receive));
}

int reduce(Communicator& comm, const void* send, void* receive, uint64_t count, DataType dtype,
           ReduceOp op, uint32_t root) {
  return reduce_to(comm, {"HcclReduce", dtype, op, true, root, count},
                   static_cast<const uint8_t*>(send), static_cast<uint8_t*>(receive));
}

int reduce_scatter(Communicator& comm, const void* send, void* receive, uint64_t count,
                   DataType dtype, ReduceOp op) {
  return reduce_scatter_parts(comm, {"HcclReduceScatter", dtype, op, true, kNoRoot, count},
                              static_cast<const uint8_t*>(send), Parts::equal(comm.size(), count),
                              static_cast<uint8_t*>(receive), count, false);
}

int reduce_scatter_v(Communicator& comm, const void* send, const Parts& sends, void* receive,
                     uint64_t count, DataType dtype, ReduceOp op) {
  return reduce_scatter_parts(comm, {"HcclReduceScatterV", dtype, op, true, kNoRoot, 0},
                              static_cast<const uint8_t*>(send), sends,
                              static_cast<uint8_t*>(receive), count, true);
}

}  // namespace hccl
