// aclnn's status codes that the emulator answers with ("aclnn return codes" in CANN's documents).

#ifndef ASCEND_EMULATOR_ACLNN_ERRORS_HPP_
#define ASCEND_EMULATOR_ACLNN_ERRORS_HPP_

namespace emulator::aclnn {

constexpr int kSuccess = 0;
constexpr int kNullPointer = 161001;  // ACLNN_ERR_PARAM_NULLPTR
constexpr int kInvalid = 161002;      // ACLNN_ERR_PARAM_INVALID
constexpr int kRuntime = 361001;      // ACLNN_ERR_RUNTIME_ERROR
constexpr int kInner = 561000;        // ACLNN_ERR_INNER

}  // namespace emulator::aclnn

#endif  // ASCEND_EMULATOR_ACLNN_ERRORS_HPP_
