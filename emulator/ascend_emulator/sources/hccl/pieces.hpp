// Collectives in which each rank has something else for each other: a rank's buffer for a round is
// cut into one piece for each of them.

#ifndef ASCEND_EMULATOR_HCCL_PIECES_HPP_
#define ASCEND_EMULATOR_HCCL_PIECES_HPP_

#include <functional>

#include "hccl/collectives.hpp"
#include "hccl/exchange.hpp"

namespace hccl {

// What a rank wrote for this one in the current round.
using Piece = std::function<const uint8_t*(uint32_t rank)>;

// Elements that a piece holds.
uint64_t piece_capacity(const Communicator& comm, uint64_t width);

// Sends sends.counts[r] elements to each rank r, in as many rounds as the largest part of any rank
// needs. In each, `take(offset, piece)` is called: the pieces hold the elements from `offset` on of
// what the ranks send to this one. The number of rounds must be equal on all ranks: it comes from
// the counts they posted, or else from sends.counts, which then must be equal. A Code.
int exchange_pieces(Communicator& comm, Exchange& exchange, const uint8_t* send, const Parts& sends,
                    uint64_t width, const std::function<void(uint64_t, const Piece&)>& take);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_PIECES_HPP_
