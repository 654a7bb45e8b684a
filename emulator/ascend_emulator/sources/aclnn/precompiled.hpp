// What every file of operators starts from: ATen's tensor and the statement of an operator. The
// build compiles it once for all of them.

#ifndef ASCEND_EMULATOR_ACLNN_PRECOMPILED_HPP_
#define ASCEND_EMULATOR_ACLNN_PRECOMPILED_HPP_

#include <ATen/Context.h>
#include <ATen/ops/empty.h>

#include "operator.hpp"

#endif  // ASCEND_EMULATOR_ACLNN_PRECOMPILED_HPP_
