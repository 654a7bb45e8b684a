// The older way to operators: by name, with attributes, compiled when first met. Not emulated, but
// for the float status, which has no other: its operators answer otherwise than aclnn's (batch norm
// gives the variance where aclnn gives the inverse standard deviation), and torch_npu need not take
// it. A launch fails by the operator's name.

#include <acl/acl.h>
#include <acl/acl_op_compiler.h>

#include <cstring>
#include <string>

#include "emulator.hpp"
#include "runtime/descriptions.hpp"
#include "runtime/errors.hpp"
#include "runtime/float_status.hpp"

namespace emulator {
namespace {

int refuse(const char* operator_name) {
  const std::string text =
      std::string("operator ") + operator_name +
      " was launched through aclop, CANN's older interface, which is not emulated (only aclnn is). "
      "Call torch.npu.set_compile_mode(jit_compile=False) before the first operator; if it still "
      "comes here, op-plugin has no aclnn form for it on " +
      soc_name() + ": use another operator";
  warn(text);
  return fail(ACL_ERROR_FEATURE_UNSUPPORTED, text);
}

// CANN's default: the 910A class compiles operators when it meets them, the 910B class does not.
std::string default_option(aclCompileOpt option) {
  if (option != ACL_OP_JIT_COMPILE) return "";
  return soc_class() == k910A ? "enable" : "disable";
}

}  // namespace
}  // namespace emulator

extern "C" {

EMULATOR_API aclError aclopCompileAndExecute(const char* opType, int numInputs,
                                             const aclTensorDesc* const inputDesc[],
                                             const aclDataBuffer* const inputs[], int numOutputs,
                                             const aclTensorDesc* const outputDesc[],
                                             aclDataBuffer* const outputs[], const aclopAttr*,
                                             aclopEngineType, aclopCompileType, const char*,
                                             aclrtStream) {
  if (emulator::is_float_status(opType)) {
    return emulator::run_float_status(opType, {inputDesc, inputs, numInputs},
                                      {outputDesc, outputs, numOutputs});
  }
  return emulator::refuse(opType);
}

EMULATOR_API aclError aclopCompileAndExecuteV2(const char* opType, int numInputs,
                                               aclTensorDesc* inputDesc[], aclDataBuffer* inputs[],
                                               int numOutputs, aclTensorDesc* outputDesc[],
                                               aclDataBuffer* outputs[], aclopAttr* attr,
                                               aclopEngineType engineType,
                                               aclopCompileType compileFlag, const char* opPath,
                                               aclrtStream stream) {
  return aclopCompileAndExecute(opType, numInputs, inputDesc, inputs, numOutputs, outputDesc,
                                outputs, attr, engineType, compileFlag, opPath, stream);
}

EMULATOR_API aclError aclopCompile(const char* opType, int, const aclTensorDesc* const[], int,
                                   const aclTensorDesc* const[], const aclopAttr*, aclopEngineType,
                                   aclopCompileType, const char*) {
  return emulator::refuse(opType);
}

EMULATOR_API aclError aclopExecuteV2(const char* opType, int, aclTensorDesc*[], aclDataBuffer*[],
                                     int, aclTensorDesc*[], aclDataBuffer*[], aclopAttr*,
                                     aclrtStream) {
  return emulator::refuse(opType);
}

EMULATOR_API aclError aclGenGraphAndDumpForOp(const char* opType, int, const aclTensorDesc* const[],
                                              const aclDataBuffer* const[], int,
                                              const aclTensorDesc* const[], aclDataBuffer* const[],
                                              const aclopAttr*, aclopEngineType, const char*,
                                              const aclGraphDumpOption*) {
  return emulator::refuse(opType);
}

// Options of the compiler that those launches would use.
EMULATOR_API aclError aclSetCompileopt(aclCompileOpt, const char*) { return ACL_SUCCESS; }

EMULATOR_API size_t aclGetCompileoptSize(aclCompileOpt opt) {
  return emulator::default_option(opt).size() + 1;
}

EMULATOR_API aclError aclGetCompileopt(aclCompileOpt opt, char* value, size_t length) {
  const std::string text = emulator::default_option(opt);
  if (value == nullptr || length <= text.size()) {
    return emulator::invalid("aclGetCompileopt", "there is no room for the value");
  }
  std::memcpy(value, text.c_str(), text.size() + 1);
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclopSetCompileFlag(aclOpCompileFlag) { return ACL_SUCCESS; }

// Ends the graph engine, which the launches would have started.
EMULATOR_API void GeGeneratorFinalize() {}

}  // extern "C"
