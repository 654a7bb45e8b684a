#include "hccl/pieces.hpp"

#include <algorithm>
#include <cstring>

namespace hccl {

uint64_t piece_capacity(const Communicator& comm, uint64_t width) {
  // Pieces begin at cache lines.
  return comm.layout().slot_bytes / comm.size() / 64 * 64 / width;
}

int exchange_pieces(Communicator& comm, Exchange& exchange, const uint8_t* send, const Parts& sends,
                    uint64_t width, const std::function<void(uint64_t, const Piece&)>& take) {
  const uint64_t capacity = piece_capacity(comm, width);
  const uint64_t stride = comm.layout().slot_bytes / comm.size() / 64 * 64;
  const Piece piece = [&](uint32_t rank) { return exchange.of(rank) + stride * comm.rank(); };
  const uint64_t most = exchange.largest(sends.counts);
  for (uint64_t offset = 0; offset < most; offset += capacity) {
    for (uint32_t rank = 0; rank < comm.size(); ++rank) {
      if (offset >= sends.counts[rank]) continue;
      std::memcpy(exchange.own() + stride * rank,
                  send + (sends.displacements[rank] + offset) * width,
                  std::min(capacity, sends.counts[rank] - offset) * width);
    }
    if (const int code = exchange.sync()) return code;
    take(offset, piece);
  }
  return kSuccess;
}

}  // namespace hccl
