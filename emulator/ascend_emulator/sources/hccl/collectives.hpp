// The collectives. Buffers are device memory; counts and displacements are in elements. Each
// returns a Code, having recorded a text for it, and counts as one launched kernel.

#ifndef ASCEND_EMULATOR_HCCL_COLLECTIVES_HPP_
#define ASCEND_EMULATOR_HCCL_COLLECTIVES_HPP_

#include <cstdint>
#include <vector>

#include "hccl/communicator.hpp"
#include "hccl/types.hpp"

namespace hccl {

// The part of a buffer that belongs to each rank.
struct Parts {
  // Equal parts, one after the other.
  static Parts equal(uint32_t num_ranks, uint64_t count);
  static Parts given(uint32_t num_ranks, const uint64_t* counts, const uint64_t* displacements);
  // Elements up to the end of the last.
  uint64_t extent() const;

  std::vector<uint64_t> counts, displacements;
};

// Reductions go by rank: rank 0's values, then rank 1's, and so on. Each element is reduced by one
// rank and copied by the others, so that all ranks get the same bits.
int all_reduce(Communicator& comm, const void* send, void* receive, uint64_t count, DataType dtype,
               ReduceOp op);
int reduce(Communicator& comm, const void* send, void* receive, uint64_t count, DataType dtype,
           ReduceOp op, uint32_t root);
int reduce_scatter(Communicator& comm, const void* send, void* receive, uint64_t count,
                   DataType dtype, ReduceOp op);
int reduce_scatter_v(Communicator& comm, const void* send, const Parts& sends, void* receive,
                     uint64_t count, DataType dtype, ReduceOp op);

int broadcast(Communicator& comm, void* buffer, uint64_t count, DataType dtype, uint32_t root);
int all_gather(Communicator& comm, const void* send, void* receive, uint64_t count, DataType dtype);
int all_gather_v(Communicator& comm, const void* send, uint64_t count, void* receive,
                 const Parts& receives, DataType dtype);
int scatter(Communicator& comm, const void* send, void* receive, uint64_t count, DataType dtype,
            uint32_t root);
int all_to_all(Communicator& comm, const void* send, void* receive, uint64_t count, DataType dtype);
// `name` is HcclAlltoAllV or HcclAlltoAllVC.
int all_to_all_v(Communicator& comm, const char* name, const void* send, const Parts& sends,
                 void* receive, const Parts& receives, DataType dtype);
int barrier(Communicator& comm);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_COLLECTIVES_HPP_
