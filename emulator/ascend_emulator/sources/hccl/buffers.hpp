// What all calls check of the tensors they are given.

#ifndef ASCEND_EMULATOR_HCCL_BUFFERS_HPP_
#define ASCEND_EMULATOR_HCCL_BUFFERS_HPP_

#include <cstdint>
#include <string>

#include "hccl/communicator.hpp"
#include "hccl/types.hpp"

namespace hccl {

// Whether the chip's HCCL moves the dtype; a Code.
int check_dtype(Communicator& comm, const char* name, DataType dtype);

// Whether the chip's HCCL reduces the dtype so; a Code.
int check_reduction(Communicator& comm, const char* name, DataType dtype, ReduceOp op);

// Whether the buffer is device memory of so many elements; a Code.
int check_buffer(Communicator& comm, const char* name, const char* what, const void* buffer,
                 uint64_t count, DataType dtype);

int check_root(Communicator& comm, const char* name, uint32_t root);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_BUFFERS_HPP_
