// Making communicators and asking about them, under CANN's names.

#include <cstring>
#include <vector>

#include "hccl/api.hpp"

namespace {

using hccl::require;
using hccl::result;
using hccl::with_communicator;
using Shared = const std::shared_ptr<hccl::Communicator>&;

static_assert(sizeof(hccl::RootInfo) <= HCCL_ROOT_INFO_BYTES);

// The head of HcclCommConfig, which HcclCommConfigInit of the caller's CANN has filled in.
struct ConfigHead {
  size_t size;  // of the caller's struct, which may be an older and shorter one
  uint32_t magic;
  uint32_t version;
};

int read_config(const HcclCommConfig* config, hccl::Options* options) {
  if (config == nullptr) return hccl::kSuccess;
  ConfigHead head;
  std::memcpy(&head, config, sizeof(head));
  if (head.magic != HCCL_COMM_CONFIG_MAGIC_WORD) {
    return emulator::fail(hccl::kParameter,
                          "EI0003: the HcclCommConfig was not initialized by HcclCommConfigInit");
  }
  const auto has = [&head](size_t offset, size_t bytes) { return head.size >= offset + bytes; };
  if (has(offsetof(HcclCommConfig, hcclCommName), sizeof(config->hcclCommName))) {
    options->name.assign(config->hcclCommName,
                         strnlen(config->hcclCommName, sizeof(config->hcclCommName)));
  }
  if (has(offsetof(HcclCommConfig, hcclExecTimeOut), sizeof(config->hcclExecTimeOut)) &&
      config->hcclExecTimeOut != HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET) {
    options->exec_timeout = config->hcclExecTimeOut;
  }
  return hccl::kSuccess;
}

HcclResult init(const char* name, uint32_t num_ranks, const HcclRootInfo* root_info, uint32_t rank,
                const HcclCommConfig* config, HcclComm* comm) {
  if (const int code = require(name, "the root info", root_info)) return result(code);
  if (const int code = require(name, "the place for the communicator", comm)) return result(code);
  hccl::Options options;
  if (const int code = read_config(config, &options)) return result(code);
  hccl::RootInfo root;
  std::memcpy(&root, root_info->internal, sizeof(root));
  std::shared_ptr<hccl::Communicator> made;
  const int code = hccl::Communicator::create(root, num_ranks, rank, options, &made);
  if (code == hccl::kSuccess) *comm = hccl::keep(std::move(made));
  return result(code);
}

}  // namespace

extern "C" {

EMULATOR_API HcclResult HcclGetRootInfo(HcclRootInfo* rootInfo) {
  if (const int code = require(__func__, "the root info", rootInfo)) return result(code);
  hccl::RootInfo root;
  if (const int code = hccl::make_root(&root)) return result(code);
  std::memset(rootInfo->internal, 0, sizeof(rootInfo->internal));
  std::memcpy(rootInfo->internal, &root, sizeof(root));
  return HCCL_SUCCESS;
}

EMULATOR_API HcclResult HcclCommInitRootInfo(uint32_t nRanks, const HcclRootInfo* rootInfo,
                                             uint32_t rank, HcclComm* comm) {
  return init(__func__, nRanks, rootInfo, rank, nullptr, comm);
}

EMULATOR_API HcclResult HcclCommInitRootInfoConfig(uint32_t nRanks, const HcclRootInfo* rootInfo,
                                                   uint32_t rank, const HcclCommConfig* config,
                                                   HcclComm* comm) {
  if (const int code = require(__func__, "the configuration", config)) return result(code);
  return init(__func__, nRanks, rootInfo, rank, config, comm);
}

// Several root infos, each for some of the ranks, spread the work of connecting many; shared memory
// has the first serve all.
EMULATOR_API HcclResult HcclGetRootInfoScalable(HcclRootInfo* rootInfo) {
  return HcclGetRootInfo(rootInfo);
}

EMULATOR_API HcclResult HcclCommInitRootInfoScalable(uint32_t nRanks, uint32_t nRoot,
                                                     const HcclRootInfo* rootInfoList,
                                                     uint32_t rank, uint32_t nExtRoot,
                                                     const HcclCommConfig* config, HcclComm* comm) {
  if (nRoot == 0 || nExtRoot != 0) {
    return result(emulator::fail(hccl::kParameter,
                                 "EI0003: HcclCommInitRootInfoScalable needs a root info, and no "
                                 "hierarchical ones"));
  }
  const HcclResult made = init(__func__, nRanks, rootInfoList, rank, config, comm);
  for (uint32_t i = 1; i < nRoot && rootInfoList != nullptr; ++i) {
    hccl::RootInfo unused;
    std::memcpy(&unused, rootInfoList[i].internal, sizeof(unused));
    hccl::release_root(unused);
  }
  return made;
}

EMULATOR_API HcclResult HcclCreateSubCommConfig(HcclComm* comm, uint32_t rankNum, uint32_t* rankIds,
                                                uint64_t subCommId, uint32_t subCommRankId,
                                                HcclCommConfig* config, HcclComm* subComm) {
  const char* const name = __func__;
  if (const int code = require(name, "the communicator", comm)) return result(code);
  if (const int code = require(name, "the place for the communicator", subComm)) {
    return result(code);
  }
  return with_communicator(name, *comm, [&](Shared shared) {
    // A rank that is not to be a member calls it without any.
    *subComm = nullptr;
    if (rankIds == nullptr) return int{hccl::kSuccess};
    hccl::Options options;
    if (const int code = read_config(config, &options)) return code;
    std::shared_ptr<hccl::Communicator> made;
    const int code = shared->create_sub(std::vector<uint32_t>(rankIds, rankIds + rankNum),
                                        subCommId, subCommRankId, options, &made);
    if (code == hccl::kSuccess) *subComm = hccl::keep(std::move(made));
    return code;
  });
}

// Does not wait for the others: what they still have to receive lies in memory that they hold.
EMULATOR_API HcclResult HcclCommDestroy(HcclComm comm) {
  return result(hccl::forget(__func__, comm));
}

EMULATOR_API HcclResult HcclGetRankSize(HcclComm comm, uint32_t* rankSize) {
  if (const int code = require(__func__, "the place for the size", rankSize)) return result(code);
  return with_communicator(__func__, comm, [&](Shared shared) {
    *rankSize = shared->size();
    return int{hccl::kSuccess};
  });
}

EMULATOR_API HcclResult HcclGetRankId(HcclComm comm, uint32_t* rank) {
  if (const int code = require(__func__, "the place for the rank", rank)) return result(code);
  return with_communicator(__func__, comm, [&](Shared shared) {
    *rank = shared->rank();
    return int{hccl::kSuccess};
  });
}

EMULATOR_API HcclResult HcclGetCommName(HcclComm comm, char* commName) {
  if (const int code = require(__func__, "the place for the name", commName)) return result(code);
  return with_communicator(__func__, comm, [&](Shared shared) {
    std::memset(commName, 0, COMM_NAME_MAX_LENGTH);
    std::strncpy(commName, shared->name().c_str(), COMM_NAME_MAX_LENGTH - 1);
    return int{hccl::kSuccess};
  });
}

// Errors that no call has returned; those of a call reach its caller through that call alone.
// Follows pytorch@9e73e708 torch_npu/csrc/distributed/HCCLUtils.cpp
EMULATOR_API HcclResult HcclGetCommAsyncError(HcclComm comm, HcclResult* asyncError) {
  if (const int code = require(__func__, "the place for the error", asyncError)) {
    return result(code);
  }
  return with_communicator(__func__, comm, [&](Shared shared) {
    std::string text;
    *asyncError = result(shared->asynchronous_error(&text));
    // The caller asks aclGetRecentErrMsg on its own thread.
    if (*asyncError != HCCL_SUCCESS) emulator::fail(*asyncError, text);
    return int{hccl::kSuccess};
  });
}

EMULATOR_API HcclResult HcclCommSuspend(HcclComm comm) {
  return with_communicator(__func__, comm, [](Shared shared) {
    shared->suspend(true);
    return int{hccl::kSuccess};
  });
}

// Lifts a suspension. A communicator whose ranks have lost step stays failed.
EMULATOR_API HcclResult HcclCommResume(HcclComm comm) {
  return with_communicator(__func__, comm, [](Shared shared) {
    shared->suspend(false);
    return shared->check_usable();
  });
}

EMULATOR_API const char* HcclGetErrorString(HcclResult code) {
  switch (static_cast<int>(code)) {
    case hccl::kSuccess:
      return "no error";
    case hccl::kParameter:
      return "parameter error";
    case hccl::kPointer:
      return "empty pointer";
    case hccl::kMemory:
      return "memory error";
    case hccl::kInternal:
      return "internal error";
    case hccl::kNotSupported:
      return "not support feature";
    case hccl::kNotFound:
      return "not found specific resource";
    case hccl::kUnavailable:
      return "resource unavailable";
    case hccl::kSystemCall:
      return "call system interface error";
    case hccl::kTimeout:
      return "timeout";
    case hccl::kRuntime:
      return "call runtime api fail";
    case hccl::kRemote:
      return "error cqe";
    case hccl::kSuspending:
      return "error communicator suspending";
    default:
      return "unknown error";
  }
}

}  // extern "C"
