// What every file of operators includes first: ATen's tensor and the statement of an operator. The
// build compiles it once for all of them.

#ifndef SHUFFLENET_FN_EMULATOR_ACLNN_PRECOMPILED_HPP_
#define SHUFFLENET_FN_EMULATOR_ACLNN_PRECOMPILED_HPP_

#include "operator.hpp"

#endif  // SHUFFLENET_FN_EMULATOR_ACLNN_PRECOMPILED_HPP_
