// The collectives under CANN's names.

#include "hccl/api.hpp"
#include "hccl/collectives.hpp"
#include "hccl/point_to_point.hpp"

namespace {

using hccl::DataType;
using hccl::Parts;
using hccl::ReduceOp;
using hccl::require;
using hccl::with_communicator;
using Shared = const std::shared_ptr<hccl::Communicator>&;

static_assert(HCCL_SUCCESS == int{hccl::kSuccess} && HCCL_E_PARA == int{hccl::kParameter} &&
              HCCL_E_PTR == int{hccl::kPointer} && HCCL_E_MEMORY == int{hccl::kMemory} &&
              HCCL_E_INTERNAL == int{hccl::kInternal} &&
              HCCL_E_NOT_SUPPORT == int{hccl::kNotSupported} &&
              HCCL_E_NOT_FOUND == int{hccl::kNotFound} &&
              HCCL_E_UNAVAIL == int{hccl::kUnavailable} &&
              HCCL_E_SYSCALL == int{hccl::kSystemCall} && HCCL_E_TIMEOUT == int{hccl::kTimeout} &&
              HCCL_E_RUNTIME == int{hccl::kRuntime} && HCCL_E_REMOTE == int{hccl::kRemote} &&
              HCCL_E_SUSPENDING == int{hccl::kSuspending});

constexpr bool same(HcclDataType theirs, DataType ours) {
  return static_cast<uint32_t>(theirs) == static_cast<uint32_t>(ours);
}
static_assert(same(HCCL_DATA_TYPE_INT8, DataType::kInt8) &&
              same(HCCL_DATA_TYPE_INT16, DataType::kInt16) &&
              same(HCCL_DATA_TYPE_INT32, DataType::kInt32) &&
              same(HCCL_DATA_TYPE_FP16, DataType::kFloat16) &&
              same(HCCL_DATA_TYPE_FP32, DataType::kFloat32) &&
              same(HCCL_DATA_TYPE_INT64, DataType::kInt64) &&
              same(HCCL_DATA_TYPE_UINT64, DataType::kUint64) &&
              same(HCCL_DATA_TYPE_UINT8, DataType::kUint8) &&
              same(HCCL_DATA_TYPE_UINT16, DataType::kUint16) &&
              same(HCCL_DATA_TYPE_UINT32, DataType::kUint32) &&
              same(HCCL_DATA_TYPE_FP64, DataType::kFloat64) &&
              same(HCCL_DATA_TYPE_BFP16, DataType::kBfloat16));
static_assert(HCCL_REDUCE_SUM == static_cast<int>(ReduceOp::kSum) &&
              HCCL_REDUCE_PROD == static_cast<int>(ReduceOp::kProduct) &&
              HCCL_REDUCE_MAX == static_cast<int>(ReduceOp::kMax) &&
              HCCL_REDUCE_MIN == static_cast<int>(ReduceOp::kMin));

DataType type(HcclDataType dtype) { return static_cast<DataType>(dtype); }
ReduceOp reduction(HcclReduceOp op) { return static_cast<ReduceOp>(op); }

// A rank's counts and displacements as CANN has them: arrays of uint64.
int parts(const char* name, uint32_t num_ranks, const void* counts, const void* displacements,
          Parts* made) {
  if (const int code = require(name, "the array of counts", counts)) return code;
  if (const int code = require(name, "the array of displacements", displacements)) return code;
  *made = Parts::given(num_ranks, static_cast<const uint64_t*>(counts),
                       static_cast<const uint64_t*>(displacements));
  return hccl::kSuccess;
}

int same_types(const char* name, HcclDataType sent, HcclDataType received) {
  if (sent == received) return hccl::kSuccess;
  return emulator::fail(hccl::kParameter, "EI0003: " + std::string(name) + ": " +
                                              hccl::name_of(type(sent)) + " is sent, but " +
                                              hccl::name_of(type(received)) + " received");
}

// Row `row` of a matrix, or its column, packed one part after the other.
Parts packed(const uint64_t* matrix, uint32_t size, uint32_t index, bool row) {
  Parts made;
  uint64_t end = 0;
  for (uint32_t i = 0; i < size; ++i) {
    const uint64_t count = row ? matrix[index * size + i] : matrix[i * size + index];
    made.counts.push_back(count);
    made.displacements.push_back(end);
    end += count;
  }
  return made;
}

}  // namespace

extern "C" {

// Follows hccl@9.1.0 docs/zh/api_ref/comm_op_interface/HcclAllReduce.md
EMULATOR_API HcclResult HcclAllReduce(void* sendBuf, void* recvBuf, uint64_t count,
                                      HcclDataType dataType, HcclReduceOp op, HcclComm comm,
                                      aclrtStream) {
  return with_communicator(__func__, comm, [&](Shared shared) {
    return hccl::all_reduce(*shared, sendBuf, recvBuf, count, type(dataType), reduction(op));
  });
}

EMULATOR_API HcclResult HcclReduce(void* sendBuf, void* recvBuf, uint64_t count,
                                   HcclDataType dataType, HcclReduceOp op, uint32_t root,
                                   HcclComm comm, aclrtStream) {
  return with_communicator(__func__, comm, [&](Shared shared) {
    return hccl::reduce(*shared, sendBuf, recvBuf, count, type(dataType), reduction(op), root);
  });
}

EMULATOR_API HcclResult HcclReduceScatter(void* sendBuf, void* recvBuf, uint64_t recvCount,
                                          HcclDataType dataType, HcclReduceOp op, HcclComm comm,
                                          aclrtStream) {
  return with_communicator(__func__, comm, [&](Shared shared) {
    return hccl::reduce_scatter(*shared, sendBuf, recvBuf, recvCount, type(dataType),
                                reduction(op));
  });
}

EMULATOR_API HcclResult HcclReduceScatterV(void* sendBuf, const void* sendCounts,
                                           const void* sendDispls, void* recvBuf,
                                           uint64_t recvCount, HcclDataType dataType,
                                           HcclReduceOp op, HcclComm comm, aclrtStream) {
  const char* const name = __func__;
  return with_communicator(name, comm, [&](Shared shared) {
    Parts sends;
    const int code = parts(name, shared->size(), sendCounts, sendDispls, &sends);
    return code != hccl::kSuccess
               ? code
               : hccl::reduce_scatter_v(*shared, sendBuf, sends, recvBuf, recvCount, type(dataType),
                                        reduction(op));
  });
}

// Follows hccl@9.1.0 docs/zh/api_ref/comm_op_interface/HcclBroadcast.md
EMULATOR_API HcclResult HcclBroadcast(void* buf, uint64_t count, HcclDataType dataType,
                                      uint32_t root, HcclComm comm, aclrtStream) {
  return with_communicator(__func__, comm, [&](Shared shared) {
    return hccl::broadcast(*shared, buf, count, type(dataType), root);
  });
}

EMULATOR_API HcclResult HcclScatter(void* sendBuf, void* recvBuf, uint64_t recvCount,
                                    HcclDataType dataType, uint32_t root, HcclComm comm,
                                    aclrtStream) {
  return with_communicator(__func__, comm, [&](Shared shared) {
    return hccl::scatter(*shared, sendBuf, recvBuf, recvCount, type(dataType), root);
  });
}

// Follows hccl@9.1.0 docs/zh/api_ref/comm_op_interface/HcclAllGather.md
EMULATOR_API HcclResult HcclAllGather(void* sendBuf, void* recvBuf, uint64_t sendCount,
                                      HcclDataType dataType, HcclComm comm, aclrtStream) {
  return with_communicator(__func__, comm, [&](Shared shared) {
    return hccl::all_gather(*shared, sendBuf, recvBuf, sendCount, type(dataType));
  });
}

EMULATOR_API HcclResult HcclAllGatherV(void* sendBuf, uint64_t sendCount, void* recvBuf,
                                       const void* recvCounts, const void* recvDispls,
                                       HcclDataType dataType, HcclComm comm, aclrtStream) {
  const char* const name = __func__;
  return with_communicator(name, comm, [&](Shared shared) {
    Parts receives;
    const int code = parts(name, shared->size(), recvCounts, recvDispls, &receives);
    return code != hccl::kSuccess
               ? code
               : hccl::all_gather_v(*shared, sendBuf, sendCount, recvBuf, receives, type(dataType));
  });
}

EMULATOR_API HcclResult HcclAlltoAll(const void* sendBuf, uint64_t sendCount, HcclDataType sendType,
                                     const void* recvBuf, uint64_t recvCount, HcclDataType recvType,
                                     HcclComm comm, aclrtStream) {
  const char* const name = __func__;
  return with_communicator(name, comm, [&](Shared shared) {
    if (const int code = same_types(name, sendType, recvType)) return code;
    if (sendCount != recvCount) {
      return emulator::fail(hccl::kParameter, "EI0003: HcclAlltoAll sends " +
                                                  std::to_string(sendCount) +
                                                  " elements to each rank, but receives " +
                                                  std::to_string(recvCount));
    }
    return hccl::all_to_all(*shared, sendBuf, const_cast<void*>(recvBuf), sendCount,
                            type(sendType));
  });
}

EMULATOR_API HcclResult HcclAlltoAllV(const void* sendBuf, const void* sendCounts,
                                      const void* sdispls, HcclDataType sendType,
                                      const void* recvBuf, const void* recvCounts,
                                      const void* rdispls, HcclDataType recvType, HcclComm comm,
                                      aclrtStream) {
  const char* const name = __func__;
  return with_communicator(name, comm, [&](Shared shared) {
    Parts sends, receives;
    int code = same_types(name, sendType, recvType);
    if (code == hccl::kSuccess) code = parts(name, shared->size(), sendCounts, sdispls, &sends);
    if (code == hccl::kSuccess) code = parts(name, shared->size(), recvCounts, rdispls, &receives);
    return code != hccl::kSuccess
               ? code
               : hccl::all_to_all_v(*shared, name, sendBuf, sends, const_cast<void*>(recvBuf),
                                    receives, type(sendType));
  });
}

EMULATOR_API HcclResult HcclAlltoAllVC(const void* sendBuf, const void* sendCountMatrix,
                                       HcclDataType sendType, const void* recvBuf,
                                       HcclDataType recvType, HcclComm comm, aclrtStream) {
  const char* const name = __func__;
  return with_communicator(name, comm, [&](Shared shared) {
    int code = same_types(name, sendType, recvType);
    if (code == hccl::kSuccess) code = require(name, "the matrix of counts", sendCountMatrix);
    if (code != hccl::kSuccess) return code;
    const auto* const matrix = static_cast<const uint64_t*>(sendCountMatrix);
    return hccl::all_to_all_v(
        *shared, name, sendBuf, packed(matrix, shared->size(), shared->rank(), true),
        const_cast<void*>(recvBuf), packed(matrix, shared->size(), shared->rank(), false),
        type(sendType));
  });
}

EMULATOR_API HcclResult HcclBarrier(HcclComm comm, aclrtStream) {
  return with_communicator(__func__, comm, [](Shared shared) { return hccl::barrier(*shared); });
}

EMULATOR_API HcclResult HcclSend(void* sendBuf, uint64_t count, HcclDataType dataType,
                                 uint32_t destRank, HcclComm comm, aclrtStream) {
  return with_communicator(__func__, comm, [&](Shared shared) {
    return hccl::transfer_or_defer(shared, "HcclSend",
                                   {true, sendBuf, count, type(dataType), destRank});
  });
}

EMULATOR_API HcclResult HcclRecv(void* recvBuf, uint64_t count, HcclDataType dataType,
                                 uint32_t srcRank, HcclComm comm, aclrtStream) {
  return with_communicator(__func__, comm, [&](Shared shared) {
    return hccl::transfer_or_defer(shared, "HcclRecv",
                                   {false, recvBuf, count, type(dataType), srcRank});
  });
}

EMULATOR_API HcclResult HcclBatchSendRecv(HcclSendRecvItem* sendRecvInfo, uint32_t itemNum,
                                          HcclComm comm, aclrtStream) {
  const char* const name = __func__;
  return with_communicator(name, comm, [&](Shared shared) {
    if (const int code = require(name, "the array of items", sendRecvInfo)) return code;
    std::vector<hccl::Transfer> transfers;
    for (uint32_t i = 0; i < itemNum; ++i) {
      const HcclSendRecvItem& item = sendRecvInfo[i];
      transfers.push_back({item.sendRecvType == HCCL_SEND, item.buf, item.count,
                           type(item.dataType), item.remoteRank});
    }
    return hccl::transfer_all(*shared, name, transfers);
  });
}

EMULATOR_API HcclResult HcclGroupStart() { return hccl::result(hccl::begin_group()); }
EMULATOR_API HcclResult HcclGroupEnd() { return hccl::result(hccl::end_group()); }

}  // extern "C"
