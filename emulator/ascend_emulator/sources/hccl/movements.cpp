// The collectives that only move data.

#include <algorithm>
#include <cstring>

#include "emulator.hpp"
#include "hccl/buffers.hpp"
#include "hccl/collectives.hpp"
#include "hccl/exchange.hpp"
#include "hccl/pieces.hpp"

namespace hccl {
namespace {

Call moving(const char* name, DataType dtype, uint64_t count, uint32_t root = kNoRoot) {
  Call call = {"", dtype, ReduceOp::kSum, false, root, count};
  std::strncpy(call.name, name, sizeof(call.name) - 1);
  return call;
}

int all_gather_parts(Communicator& comm, const Call& call, const uint8_t* send, uint64_t count,
                     uint8_t* receive, const Parts& receives, bool counted) {
  const uint64_t width = size_of(call.dtype);
  int code = check_dtype(comm, call.name, call.dtype);
  if (code == kSuccess) code = check_buffer(comm, call.name, "send", send, count, call.dtype);
  if (code == kSuccess) {
    code = check_buffer(comm, call.name, "receive", receive, receives.extent(), call.dtype);
  }
  if (code != kSuccess) return code;

  Exchange exchange(comm, call);
  Counts counts;
  if (counted) counts = {std::vector<uint64_t>(comm.size(), count), receives.counts};
  if (const int failed = exchange.start(counts)) return failed;
  uint64_t total = 0;
  for (const uint64_t part : receives.counts) total += part;
  emulator::kernel(call.name, count * width, total * width);
  const uint64_t capacity = exchange.capacity() / width;
  const uint64_t most = exchange.largest(receives.counts);
  for (uint64_t offset = 0; offset < most; offset += capacity) {
    if (offset < count) {
      std::memcpy(exchange.own(), send + offset * width,
                  std::min(capacity, count - offset) * width);
    }
    if (const int failed = exchange.sync()) return failed;
    for (uint32_t rank = 0; rank < comm.size(); ++rank) {
      if (offset >= receives.counts[rank]) continue;
      std::memcpy(receive + (receives.displacements[rank] + offset) * width, exchange.of(rank),
                  std::min(capacity, receives.counts[rank] - offset) * width);
    }
  }
  return kSuccess;
}

int all_to_all_parts(Communicator& comm, const Call& call, const uint8_t* send, const Parts& sends,
                     uint8_t* receive, const Parts& receives, bool counted) {
  const uint64_t width = size_of(call.dtype);
  int code = check_dtype(comm, call.name, call.dtype);
  if (code == kSuccess) {
    code = check_buffer(comm, call.name, "send", send, sends.extent(), call.dtype);
  }
  if (code == kSuccess) {
    code = check_buffer(comm, call.name, "receive", receive, receives.extent(), call.dtype);
  }
  if (code != kSuccess) return code;

  Exchange exchange(comm, call);
  Counts counts;
  if (counted) counts = {sends.counts, receives.counts};
  if (const int failed = exchange.start(counts)) return failed;
  uint64_t sent = 0, received = 0;
  for (const uint64_t part : sends.counts) sent += part;
  for (const uint64_t part : receives.counts) received += part;
  emulator::kernel(call.name, sent * width, received * width);
  const uint64_t capacity = piece_capacity(comm, width);
  return exchange_pieces(
      comm, exchange, send, sends, width, [&](uint64_t offset, const Piece& piece_from) {
        for (uint32_t rank = 0; rank < comm.size(); ++rank) {
          if (offset >= receives.counts[rank]) continue;
          std::memcpy(receive + (receives.displacements[rank] + offset) * width, piece_from(rank),
                      std::min(capacity, receives.counts[rank] - offset) * width);
        }
      });
}

}  // namespace

Parts Parts::equal(uint32_t num_ranks, uint64_t count) {
  Parts parts;
  for (uint32_t rank = 0; rank < num_ranks; ++rank) {
    parts.counts.push_back(count);
    parts.displacements.push_back(rank * count);
  }
  return parts;
}

Parts Parts::given(uint32_t num_ranks, const uint64_t* counts, const uint64_t* displacements) {
  return {{counts, counts + num_ranks}, {displacements, displacements + num_ranks}};
}

uint64_t Parts::extent() const {
  uint64_t end = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] != 0) end = std::max(end, displacements[i] + counts[i]);
  }
  return end;
}

int broadcast(Communicator& comm, void* buffer, uint64_t count, DataType dtype, uint32_t root) {
  const Call call = moving("HcclBroadcast", dtype, count, root);
  const uint64_t width = size_of(dtype);
  int code = check_dtype(comm, call.name, dtype);
  if (code == kSuccess) code = check_root(comm, call.name, root);
  if (code == kSuccess) code = check_buffer(comm, call.name, "data", buffer, count, dtype);
  if (code != kSuccess) return code;

  Exchange exchange(comm, call);
  if (const int failed = exchange.start()) return failed;
  const bool sends = root == comm.rank();
  emulator::kernel(call.name, sends ? count * width : 0, sends ? 0 : count * width);
  const uint64_t capacity = exchange.capacity() / width;
  for (uint64_t done = 0; done < count; done += capacity) {
    uint8_t* const here = static_cast<uint8_t*>(buffer) + done * width;
    const uint64_t bytes = std::min(capacity, count - done) * width;
    if (sends) std::memcpy(exchange.own(), here, bytes);
    if (const int failed = exchange.sync()) return failed;
    if (!sends) std::memcpy(here, exchange.of(root), bytes);
  }
  return kSuccess;
}

int all_gather(Communicator& comm, const void* send, void* receive, uint64_t count,
               DataType dtype) {
  return all_gather_parts(comm, moving("HcclAllGather", dtype, count),
                          static_cast<const uint8_t*>(send), count, static_cast<uint8_t*>(receive),
                          Parts::equal(comm.size(), count), false);
}

int all_gather_v(Communicator& comm, const void* send, uint64_t count, void* receive,
                 const Parts& receives, DataType dtype) {
  return all_gather_parts(comm, moving("HcclAllGatherV", dtype, 0),
                          static_cast<const uint8_t*>(send), count, static_cast<uint8_t*>(receive),
                          receives, true);
}

int scatter(Communicator& comm, const void* send, void* receive, uint64_t count, DataType dtype,
            uint32_t root) {
  const Call call = moving("HcclScatter", dtype, count, root);
  const uint64_t width = size_of(dtype);
  const bool sends = root == comm.rank();
  int code = check_dtype(comm, call.name, dtype);
  if (code == kSuccess) code = check_root(comm, call.name, root);
  if (code == kSuccess && sends) {
    code = check_buffer(comm, call.name, "send", send, count * comm.size(), dtype);
  }
  if (code == kSuccess) code = check_buffer(comm, call.name, "receive", receive, count, dtype);
  if (code != kSuccess) return code;

  Exchange exchange(comm, call);
  if (const int failed = exchange.start()) return failed;
  emulator::kernel(call.name, sends ? count * comm.size() * width : 0, count * width);
  const uint64_t capacity = exchange.capacity() / comm.size() / width;
  for (uint64_t done = 0; done < count; done += capacity) {
    const uint64_t now = std::min(capacity, count - done);
    for (uint32_t rank = 0; sends && rank < comm.size(); ++rank) {
      std::memcpy(exchange.own() + rank * capacity * width,
                  static_cast<const uint8_t*>(send) + (rank * count + done) * width, now * width);
    }
    if (const int failed = exchange.sync()) return failed;
    std::memcpy(static_cast<uint8_t*>(receive) + done * width,
                exchange.of(root) + comm.rank() * capacity * width, now * width);
  }
  return kSuccess;
}

int all_to_all(Communicator& comm, const void* send, void* receive, uint64_t count,
               DataType dtype) {
  const Parts parts = Parts::equal(comm.size(), count);
  return all_to_all_parts(comm, moving("HcclAlltoAll", dtype, count),
                          static_cast<const uint8_t*>(send), parts, static_cast<uint8_t*>(receive),
                          parts, false);
}

int all_to_all_v(Communicator& comm, const char* name, const void* send, const Parts& sends,
                 void* receive, const Parts& receives, DataType dtype) {
  return all_to_all_parts(comm, moving(name, dtype, 0), static_cast<const uint8_t*>(send), sends,
                          static_cast<uint8_t*>(receive), receives, true);
}

int barrier(Communicator& comm) {
  Exchange exchange(comm, moving("HcclBarrier", DataType::kInt8, 0));
  if (const int code = exchange.start()) return code;
  emulator::kernel("HcclBarrier", 0, 0);
  return kSuccess;
}

}  // namespace hccl
