// What answers for an operator that CANN has and the emulator does not.

#include <string>

#include "../emulator.hpp"

namespace {

bool contains(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

// The file in which operators of that kind stand.
std::string file_for(const std::string& name) {
  constexpr struct {
    const char* part;
    const char* file;
  } kFiles[] = {
      {"ForeachNonFinite", "amp.cpp"},
      {"Foreach", "foreach_arithmetic.cpp or foreach_unary.cpp"},
      {"Conv", "convolution.cpp"},
      {"Pool", "pooling.cpp"},
      {"BatchNorm", "normalization.cpp"},
      {"LayerNorm", "normalization.cpp"},
      {"GroupNorm", "normalization.cpp"},
      {"Loss", "loss.cpp"},
      {"CrossEntropy", "loss.cpp"},
      {"Softmax", "activation.cpp"},
      {"elu", "activation.cpp"},
      {"Random", "random.cpp"},
      {"Normal", "random.cpp"},
      {"Uniform", "random.cpp"},
      {"Bernoulli", "random.cpp"},
      {"Dropout", "random.cpp"},
      {"MatMul", "matmul.cpp"},
      {"Matmul", "matmul.cpp"},
      {"mm", "matmul.cpp"},
      {"Index", "index.cpp"},
      {"Scatter", "index.cpp"},
      {"Gather", "index.cpp"},
      {"Masked", "index.cpp"},
      {"Sort", "order.cpp"},
      {"Cum", "order.cpp"},
      {"Unique", "order.cpp"},
      {"Logical", "pointwise_logic.cpp"},
      {"Bitwise", "pointwise_logic.cpp"},
      {"Nonzero", "order.cpp"},
      {"Topk", "order.cpp"},
      {"Reduce", "reduce.cpp"},
      {"Dim", "reduce.cpp"},
      {"Amp", "amp.cpp"},
  };
  for (const auto& row : kFiles) {
    if (contains(name, row.part)) {
      return row.file;
    }
  }
  return "in the file of its family";
}

}  // namespace

// Called by the functions that build.py generates, one for each name that torch_npu looks up.
extern "C" __attribute__((visibility("hidden"))) int emulator_missing_operator(const char* name) {
  return emulator::missing(name, ("ascend_emulator/sources/aclnn/" + file_for(name)).c_str());
}
