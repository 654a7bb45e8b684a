#include "hccl/types.hpp"

#include "emulator.hpp"

namespace hccl {
namespace {

struct Fact {
  const char* name;
  size_t bytes;
  bool reduces_on_910a;
  bool reduces_on_910b;
};

// In the order of DataType.
constexpr Fact kFacts[] = {
    {"int8", 1, true, true},     {"int16", 2, false, true},    {"int32", 4, true, true},
    {"float16", 2, true, true},  {"float32", 4, true, true},   {"int64", 8, true, true},
    {"uint64", 8, false, false}, {"uint8", 1, false, false},   {"uint16", 2, false, false},
    {"uint32", 4, false, false}, {"float64", 8, false, false}, {"bfloat16", 2, false, true},
};
constexpr uint32_t kNumFacts = sizeof(kFacts) / sizeof(kFacts[0]);

const Fact* fact(DataType dtype) {
  const uint32_t index = static_cast<uint32_t>(dtype);
  return index < kNumFacts ? &kFacts[index] : nullptr;
}

bool is_910b() { return emulator::soc_class() == emulator::k910B; }

}  // namespace

size_t size_of(DataType dtype) { return fact(dtype) == nullptr ? 0 : fact(dtype)->bytes; }

std::string name_of(DataType dtype) {
  return fact(dtype) == nullptr ? "dtype " + std::to_string(static_cast<uint32_t>(dtype))
                                : fact(dtype)->name;
}

std::string name_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return "sum";
    case ReduceOp::kProduct:
      return "prod";
    case ReduceOp::kMax:
      return "max";
    case ReduceOp::kMin:
      return "min";
  }
  return "reduction " + std::to_string(static_cast<uint32_t>(op));
}

bool can_move(DataType dtype) {
  return size_of(dtype) != 0 && (is_910b() || dtype != DataType::kBfloat16);
}

bool can_reduce(DataType dtype, ReduceOp op) {
  if (fact(dtype) == nullptr || op > ReduceOp::kMin) return false;
  if (!is_910b()) return fact(dtype)->reduces_on_910a;
  const bool no_product = dtype == DataType::kInt16 || dtype == DataType::kBfloat16;
  return fact(dtype)->reduces_on_910b && !(op == ReduceOp::kProduct && no_product);
}

std::string reducible(ReduceOp op) {
  std::string names;
  for (uint32_t i = 0; i < kNumFacts; ++i) {
    if (!can_reduce(static_cast<DataType>(i), op)) continue;
    if (!names.empty()) names += ", ";
    names += kFacts[i].name;
  }
  return names;
}

}  // namespace hccl
