// One reduction of two buffers, in every dtype that can_reduce() allows on some chip.

#ifndef ASCEND_EMULATOR_HCCL_REDUCE_HPP_
#define ASCEND_EMULATOR_HCCL_REDUCE_HPP_

#include <cstdint>

#include "hccl/types.hpp"

namespace hccl {

// accumulator[i] = accumulator[i] op values[i]. float16 and bfloat16 are rounded after each call,
// as adding tensors one after the other rounds; integers wrap around; max and min pass NaN on. A
// float16 result of finite values that is not finite sets the overflow flag, and is clamped on a
// chip that saturates.
void reduce(void* accumulator, const void* values, uint64_t count, DataType dtype, ReduceOp op);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_REDUCE_HPP_
