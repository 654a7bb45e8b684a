// What the emulated CANN runtime (libascendcl.so) offers to the emulated operators (libopapi.so)
// and collectives (libhccl.so).
//
// Everything that the emulator does is synchronous: an operator computes on the calling thread
// before its launch returns. Streams and events are tracked all the same, so that what would wait
// on a chip is counted.

#ifndef ASCEND_EMULATOR_HPP_
#define ASCEND_EMULATOR_HPP_

#include <cstdint>
#include <string>

#if defined(__GNUC__)
#define EMULATOR_API __attribute__((visibility("default")))
#else
#define EMULATOR_API
#endif

namespace emulator {

// ---- What is emulated -------------------------------------------------------------------------

// Ordered by generation. k910B is Atlas A2 and A3.
enum SocClass : int { k910A = 0, k910B = 1, k950 = 2 };

// The class of chip that ASCEND_EMULATOR_SOC names; decides which dtypes an operator takes.
EMULATOR_API int soc_class();
// For example "Ascend910B1".
EMULATOR_API const char* soc_name();
EMULATOR_API int32_t device_count();

// ---- Devices and memory -----------------------------------------------------------------------

// The device of the calling thread, or -1 when none was set and none could be assumed.
EMULATOR_API int32_t current_device();

// The device that owns the memory behind a pointer (anywhere inside an allocation), or -1 where no
// device does: then it is host memory. An operator given host memory must refuse it, as the chip
// would fault on it.
EMULATOR_API int32_t owner(const void* pointer);

// True when [pointer, pointer + bytes) lies within one allocation of one device. An operator checks
// its tensors with it, so that a wrong stride or offset fails by name and not with a crash.
EMULATOR_API bool within_allocation(const void* pointer, uint64_t bytes);

// ---- Counting ---------------------------------------------------------------------------------

// Counts a kernel of the calling thread's device. To be called once for each launch, when it runs.
// `signature` says with which arguments, in the words of kernel_model.py; launches with the same one
// are counted together.
EMULATOR_API void kernel(const char* name, uint64_t bytes_read, uint64_t bytes_written,
                         const std::string& signature = "");

// Counts a call that would make the host wait for the device; `what` is the API's name.
EMULATOR_API void host_sync(const char* what);

// Counts a copy; `direction` is "h2d", "d2h", "d2d" or "p2p" (between two devices).
EMULATOR_API void copied(const char* direction, uint64_t bytes);

// ---- Faults -----------------------------------------------------------------------------------

// True when this event is the one that ASCEND_EMULATOR_FAULTS asks to fail. The variable is
// a comma list of KIND[:NAME]@N[#RANK]: the N-th event (from 1) of that kind, and of that name
// where one is given, in this process, if its rank is RANK. Every call counts as one event.
// - "alloc@3": fault("alloc", "aclrtMalloc"), the third allocation.
// - "op:aclnnConvolution@5": fault("op", "aclnnConvolution"), its fifth launch.
// - "overflow@4": fault("overflow", name of the kernel), the fourth launch: the operator that asks
//   sets the overflow flag, and where results do not saturate() writes an infinity into its first
//   floating-point output.
// - "hccl:kill@2#1": fault("hccl", "kill"), the second collective of rank 1. HCCL asks for both
//   "hang" and "kill" at each collective.
// - "device:busy@1": fault("device", "busy"), the first time that the process sets its device: the
//   device is still held by a process that was killed.
EMULATOR_API bool fault(const char* kind, const char* name);

// True when "hccl:busy@N" asks the N-th start of the ranks to find HCCL's process of killed ranks
// still there. Starts are those that torch elastic counts (TORCHELASTIC_RESTART_COUNT), so that
// what is asked for holds for processes that a launcher starts one after the other.
EMULATOR_API bool busy_start();

// The rank of this process, for the #RANK filter. Called by HCCL when a communicator is made;
// before that the rank is that of the RANK environment variable, or 0.
EMULATOR_API void set_rank(int32_t rank);

// ---- Errors -----------------------------------------------------------------------------------

// Records the text for aclGetRecentErrMsg on the calling thread, and returns `code`. The text says
// what was wrong, with the values, and what is allowed: `return emulator::fail(161002, text)`.
EMULATOR_API int fail(int code, const std::string& text);

// For a function that CANN has and the emulator does not: records "<symbol> is not emulated; add it
// in <file>" and returns ACL_ERROR_FEATURE_UNSUPPORTED (200006).
EMULATOR_API int missing(const char* symbol, const char* file);

// Warnings and errors that must be seen even where the caller drops the return code go to stderr,
// each distinct text once.
EMULATOR_API void warn(const std::string& text);

// ---- Overflow of float16 ----------------------------------------------------------------------

// The float status register of the calling thread's device: an operator calls flag_overflow() when
// a result of finite inputs is not finite. On 910A-class chips this is how fp16 overflow is seen,
// since they saturate; see saturates().
EMULATOR_API void flag_overflow();
EMULATOR_API bool overflow_flagged();
EMULATOR_API void clear_overflow();

// True where fp16 results beyond the largest finite value are clamped to it instead of becoming
// infinite: 910A-class always, 910B-class when the overflow mode asks for saturation.
EMULATOR_API bool saturates();

}  // namespace emulator

#endif  // ASCEND_EMULATOR_HPP_
