// The result codes, dtypes and reductions of HCCL, by their values in hccl/hccl_types.h, so that
// all but api*.cpp compiles without CANN's headers. api.cpp asserts that the values agree.

#ifndef ASCEND_EMULATOR_HCCL_TYPES_HPP_
#define ASCEND_EMULATOR_HCCL_TYPES_HPP_

#include <cstddef>
#include <cstdint>
#include <string>

namespace hccl {

enum Code : int {
  kSuccess = 0,
  kParameter = 1,
  kPointer = 2,
  kMemory = 3,
  kInternal = 4,
  kNotSupported = 5,
  kNotFound = 6,
  kUnavailable = 7,
  kSystemCall = 8,
  kTimeout = 9,
  kRuntime = 15,
  kRemote = 21,
  kSuspending = 22,
};

enum class DataType : uint32_t {
  kInt8 = 0,
  kInt16 = 1,
  kInt32 = 2,
  kFloat16 = 3,
  kFloat32 = 4,
  kInt64 = 5,
  kUint64 = 6,
  kUint8 = 7,
  kUint16 = 8,
  kUint32 = 9,
  kFloat64 = 10,
  kBfloat16 = 11,
};

enum class ReduceOp : uint32_t { kSum = 0, kProduct = 1, kMax = 2, kMin = 3 };

// Bytes of one element; 0 for a dtype that HCCL does not move on the emulated chips.
size_t size_of(DataType dtype);
std::string name_of(DataType dtype);
std::string name_of(ReduceOp op);

// Whether the emulated chip's HCCL takes the dtype: where data is only moved, and where it is
// reduced. From the parameter tables of HcclAllReduce, HcclReduce, HcclReduceScatter and
// HcclAllGather in the HCCL API reference of CANN 8.0 and 8.5.
bool can_move(DataType dtype);
bool can_reduce(DataType dtype, ReduceOp op);

// The dtypes that can be reduced so, for an error's text.
std::string reducible(ReduceOp op);

}  // namespace hccl

#endif  // ASCEND_EMULATOR_HCCL_TYPES_HPP_
