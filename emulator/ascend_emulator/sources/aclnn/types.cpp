#include "types.hpp"

#include <array>

#include "../emulator.hpp"

namespace emulator::aclnn {
namespace {

struct Pair {
  c10::ScalarType torch;
  aclDataType acl;
  const char* name;
};

constexpr std::array<Pair, 16> kPairs{{
    {c10::kFloat, ACL_FLOAT, "DT_FLOAT"},
    {c10::kHalf, ACL_FLOAT16, "DT_FLOAT16"},
    {c10::kBFloat16, ACL_BF16, "DT_BFLOAT16"},
    {c10::kDouble, ACL_DOUBLE, "DT_DOUBLE"},
    {c10::kChar, ACL_INT8, "DT_INT8"},
    {c10::kShort, ACL_INT16, "DT_INT16"},
    {c10::kInt, ACL_INT32, "DT_INT32"},
    {c10::kLong, ACL_INT64, "DT_INT64"},
    {c10::kByte, ACL_UINT8, "DT_UINT8"},
    {c10::kUInt16, ACL_UINT16, "DT_UINT16"},
    {c10::kUInt32, ACL_UINT32, "DT_UINT32"},
    {c10::kUInt64, ACL_UINT64, "DT_UINT64"},
    {c10::kBool, ACL_BOOL, "DT_BOOL"},
    {c10::kComplexHalf, ACL_COMPLEX32, "DT_COMPLEX32"},
    {c10::kComplexFloat, ACL_COMPLEX64, "DT_COMPLEX64"},
    {c10::kComplexDouble, ACL_COMPLEX128, "DT_COMPLEX128"},
}};

}  // namespace

bool takes(Types types, c10::ScalarType dtype) {
  if (soc_class() == k910A && ((types.bits & kNot910A) != 0 || dtype == c10::kBFloat16)) {
    return false;
  }
  return (types.bits & of(dtype).bits) != 0;
}

std::string taken(Types types) {
  std::string names;
  for (const Pair& pair : kPairs) {
    if (takes(types, pair.torch)) {
      names += (names.empty() ? "" : ", ") + std::string(pair.name);
    }
  }
  return names;
}

std::string name_of(c10::ScalarType dtype) {
  for (const Pair& pair : kPairs) {
    if (pair.torch == dtype) {
      return pair.name;
    }
  }
  return c10::toString(dtype);
}

c10::ScalarType torch_dtype(aclDataType dtype) {
  for (const Pair& pair : kPairs) {
    if (pair.acl == dtype) {
      return pair.torch;
    }
  }
  return c10::ScalarType::Undefined;
}

aclDataType acl_dtype(c10::ScalarType dtype) {
  for (const Pair& pair : kPairs) {
    if (pair.torch == dtype) {
      return pair.acl;
    }
  }
  return ACL_DT_UNDEFINED;
}

}  // namespace emulator::aclnn
