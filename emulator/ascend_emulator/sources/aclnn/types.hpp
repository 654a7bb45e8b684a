// Which dtypes an operator takes, for each class of chip, and CANN's names for them.

#ifndef ASCEND_EMULATOR_ACLNN_TYPES_HPP_
#define ASCEND_EMULATOR_ACLNN_TYPES_HPP_

#include <acl/acl_base.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

namespace emulator::aclnn {

// A set of dtypes, written as f16 | bf16 | f32. Every class of chip takes them, but for two rules
// of CANN's documents: bf16 is not there before the 910B class, and on_910b() takes an operator
// away from the older class altogether.
struct Types {
  uint64_t bits;

  constexpr Types operator|(Types other) const { return {bits | other.bits}; }
};

constexpr Types of(c10::ScalarType dtype) { return {uint64_t{1} << static_cast<int>(dtype)}; }

constexpr Types boolean = of(c10::kBool);
constexpr Types u8 = of(c10::kByte), u16 = of(c10::kUInt16), u32 = of(c10::kUInt32),
                u64 = of(c10::kUInt64);
constexpr Types i8 = of(c10::kChar), i16 = of(c10::kShort), i32 = of(c10::kInt),
                i64 = of(c10::kLong);
constexpr Types f16 = of(c10::kHalf), bf16 = of(c10::kBFloat16), f32 = of(c10::kFloat),
                f64 = of(c10::kDouble);
constexpr Types c64 = of(c10::kComplexFloat), c128 = of(c10::kComplexDouble);

// What the documents list again and again.
constexpr Types floats = f16 | bf16 | f32;
constexpr Types integers = i8 | i16 | i32 | i64 | u8;
constexpr Types unsigneds = u16 | u32 | u64;
constexpr Types complexes = c64 | c128;
constexpr Types reals = floats | f64 | integers;
constexpr Types plain = reals | boolean;
constexpr Types numbers = plain | complexes;
constexpr Types everything = {(uint64_t{1} << 62) - 1};

constexpr uint64_t kNot910A = uint64_t{1} << 62;

constexpr Types on_910b(Types types) { return {types.bits | kNot910A}; }

// Whether an operator that takes `types` takes this dtype on the emulated chip.
bool takes(Types types, c10::ScalarType dtype);

// The dtypes taken on the emulated chip, as "DT_FLOAT, DT_FLOAT16"; empty when it has no such
// operator.
std::string taken(Types types);

// "DT_FLOAT" and so on.
std::string name_of(c10::ScalarType dtype);

// torch's dtype for CANN's; Undefined where torch has none.
c10::ScalarType torch_dtype(aclDataType dtype);

// CANN's dtype for torch's; ACL_DT_UNDEFINED where CANN has none.
aclDataType acl_dtype(c10::ScalarType dtype);

}  // namespace emulator::aclnn

#endif  // ASCEND_EMULATOR_ACLNN_TYPES_HPP_
