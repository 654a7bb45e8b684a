// Functions that torch_npu looks up by name at run time, and that the emulator does not have: each
// fails by its own name. Left out on purpose, since torch_npu then does without: aclrtValueWait and
// aclrtValueWrite (external events), and what it asks a chip in trouble
// (aclrtGetErrorVerbose, aclrtRepairError, aclrtGetMemUceInfo, aclrtMemUceRepair,
// aclrtDeviceTaskAbort, aclrtGetMemUsageInfo). emulator/tests/test_symbols.py has the list.

#include "emulator.hpp"

// No header of CANN may be included here: the real prototypes differ. C's calling convention lets a
// function that takes nothing be called with arguments.
#define EMULATOR_MISSING(name)                                          \
  extern "C" EMULATOR_API int name() {                                  \
    return emulator::missing(#name, "sources/runtime/unsupported.cpp"); \
  }

// Graphs of captured launches (torch.npu.NPUGraph).
EMULATOR_MISSING(aclmdlRICaptureBegin)
EMULATOR_MISSING(aclmdlRICaptureEnd)
EMULATOR_MISSING(aclmdlRICaptureToModelRIBegin)
EMULATOR_MISSING(aclmdlRICaptureTaskGrpBegin)
EMULATOR_MISSING(aclmdlRICaptureTaskGrpEnd)
EMULATOR_MISSING(aclmdlRICaptureTaskUpdateBegin)
EMULATOR_MISSING(aclmdlRICaptureTaskUpdateEnd)
EMULATOR_MISSING(aclmdlRIExecuteAsync)
EMULATOR_MISSING(aclmdlRIDestroy)
EMULATOR_MISSING(aclmdlRIDebugPrint)
EMULATOR_MISSING(aclmdlRIDebugJsonPrint)
EMULATOR_MISSING(aclmdlRICondHandleCreate)
EMULATOR_MISSING(aclmdlRICondHandleGetCondPtr)
EMULATOR_MISSING(aclmdlRIAddCondTask)

// Tensors and events shared between processes.
EMULATOR_MISSING(aclrtIpcGetEventHandle)
EMULATOR_MISSING(aclrtIpcOpenEventHandle)
EMULATOR_MISSING(aclrtIpcMemGetExportKey)
EMULATOR_MISSING(aclrtIpcMemSetImportPid)
EMULATOR_MISSING(aclrtIpcMemImportByKey)
EMULATOR_MISSING(aclrtIpcMemClose)
EMULATOR_MISSING(aclrtMemExportToShareableHandle)
EMULATOR_MISSING(aclrtMemSetPidToShareableHandle)
EMULATOR_MISSING(aclrtMemImportFromShareableHandle)
EMULATOR_MISSING(aclrtDeviceGetBareTgid)

// Limits on the cores that a stream or device may use.
EMULATOR_MISSING(aclrtGetDeviceResLimit)
EMULATOR_MISSING(aclrtSetDeviceResLimit)
EMULATOR_MISSING(aclrtResetDeviceResLimit)
EMULATOR_MISSING(aclrtGetStreamResLimit)
EMULATOR_MISSING(aclrtSetStreamResLimit)
EMULATOR_MISSING(aclrtResetStreamResLimit)
EMULATOR_MISSING(aclrtUseStreamResInCurrentThread)
EMULATOR_MISSING(aclrtUnuseStreamResInCurrentThread)
EMULATOR_MISSING(aclrtGetResInCurrentThread)

// A chip's caches.
EMULATOR_MISSING(aclrtCmoAsync)

// Kernels of one's own.
EMULATOR_MISSING(aclrtGetHardwareSyncAddr)
EMULATOR_MISSING(aclrtLaunchKernelWithHostArgs)

// Dumps of an operator's arguments.
EMULATOR_MISSING(aclopStartDumpArgs)
EMULATOR_MISSING(aclopStopDumpArgs)
EMULATOR_MISSING(aclmdlInitDump)
EMULATOR_MISSING(aclmdlSetDump)
EMULATOR_MISSING(aclmdlFinalizeDump)
EMULATOR_MISSING(aclCreateGraphDumpOpt)
EMULATOR_MISSING(aclDestroyGraphDumpOpt)
