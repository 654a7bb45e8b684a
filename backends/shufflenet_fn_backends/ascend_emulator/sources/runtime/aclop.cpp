// The older way to operators: by name, with attributes, compiled when first met. Not emulated: its
// operators answer otherwise than aclnn's (batch norm gives the variance where aclnn gives the
// inverse standard deviation), and torch_npu need not take it. Descriptions can be made, since
// torch_npu makes them before it launches; the launch fails by the operator's name.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulator.hpp"

namespace emulator {
namespace {

// Opaque to callers: CANN's headers only declare them.
struct TensorDescription {
  int type;
  int format;
  std::vector<int64_t> shape;
  std::string name;
};

struct Buffer {
  void* data;
  size_t bytes;
};

TensorDescription& description(void* pointer) { return *static_cast<TensorDescription*>(pointer); }

const TensorDescription& description(const void* pointer) {
  return *static_cast<const TensorDescription*>(pointer);
}

int refuse(const char* operator_name) {
  const std::string text =
      std::string("operator ") + operator_name +
      " was launched through aclop, CANN's older interface, which is not emulated (only aclnn is). "
      "Call torch.npu.set_compile_mode(jit_compile=False) before the first operator; if it still "
      "comes here, op-plugin has no aclnn form for it on " +
      soc_name() + ": use another operator";
  warn(text);
  return fail(200006, text);  // ACL_ERROR_FEATURE_UNSUPPORTED
}

}  // namespace
}  // namespace emulator

using emulator::Buffer;
using emulator::description;
using emulator::TensorDescription;

extern "C" {

EMULATOR_API void* aclopCreateAttr() { return new char; }

EMULATOR_API void aclopDestroyAttr(const void* attr) { delete static_cast<const char*>(attr); }

EMULATOR_API int aclopSetAttrBool(void*, const char*, uint8_t) { return 0; }

EMULATOR_API int aclopSetAttrInt(void*, const char*, int64_t) { return 0; }

EMULATOR_API int aclopSetAttrFloat(void*, const char*, float) { return 0; }

EMULATOR_API int aclopSetAttrString(void*, const char*, const char*) { return 0; }

EMULATOR_API int aclopSetAttrDataType(void*, const char*, int) { return 0; }

EMULATOR_API int aclopSetAttrListInt(void*, const char*, int, const int64_t*) { return 0; }

EMULATOR_API int aclopSetAttrListFloat(void*, const char*, int, const float*) { return 0; }

EMULATOR_API int aclopSetAttrListBool(void*, const char*, int, const uint8_t*) { return 0; }

EMULATOR_API int aclopSetAttrListListInt(void*, const char*, int, const int*,
                                         const int64_t* const*) {
  return 0;
}

EMULATOR_API void* aclCreateTensorDesc(int type, int dims, const int64_t* shape, int format) {
  return new TensorDescription{type, format, {shape, shape + (dims > 0 ? dims : 0)}, ""};
}

EMULATOR_API void aclDestroyTensorDesc(const void* desc) {
  delete static_cast<const TensorDescription*>(desc);
}

EMULATOR_API void aclSetTensorDescName(void* desc, const char* name) {
  description(desc).name = name;
}

EMULATOR_API const char* aclGetTensorDescName(void* desc) { return description(desc).name.c_str(); }

EMULATOR_API int aclSetTensorFormat(void* desc, int format) {
  description(desc).format = format;
  return 0;
}

EMULATOR_API int aclSetTensorShape(void* desc, int dims, const int64_t* shape) {
  description(desc).shape.assign(shape, shape + dims);
  return 0;
}

EMULATOR_API int aclSetTensorShapeRange(void*, size_t, int64_t (*)[2]) { return 0; }

EMULATOR_API int aclSetTensorPlaceMent(void*, int) { return 0; }

EMULATOR_API int aclSetTensorConst(void*, void*, size_t) { return 0; }

EMULATOR_API size_t aclGetTensorDescNumDims(const void* desc) {
  return description(desc).shape.size();
}

EMULATOR_API int aclGetTensorDescType(const void* desc) { return description(desc).type; }

EMULATOR_API int aclGetTensorDescFormat(const void* desc) { return description(desc).format; }

EMULATOR_API int64_t aclGetTensorDescDim(const void* desc, size_t index) {
  return description(desc).shape.at(index);
}

EMULATOR_API int aclGetTensorDescDimV2(const void* desc, size_t index, int64_t* size) {
  *size = description(desc).shape.at(index);
  return 0;
}

EMULATOR_API void* aclCreateDataBuffer(void* data, size_t bytes) { return new Buffer{data, bytes}; }

EMULATOR_API int aclDestroyDataBuffer(const void* buffer) {
  delete static_cast<const Buffer*>(buffer);
  return 0;
}

EMULATOR_API void* aclGetDataBufferAddr(const void* buffer) {
  return static_cast<const Buffer*>(buffer)->data;
}

EMULATOR_API size_t aclGetDataBufferSizeV2(const void* buffer) {
  return static_cast<const Buffer*>(buffer)->bytes;
}

// Options of the compiler that the launches below would use.
EMULATOR_API int aclSetCompileopt(int, const char*) { return 0; }

EMULATOR_API size_t aclGetCompileoptSize(int) { return 256; }

EMULATOR_API int aclGetCompileopt(int, char* value, size_t length) {
  if (length > 0) value[0] = '\0';
  return 0;
}

EMULATOR_API int aclopSetCompileFlag(int) { return 0; }

// The arguments after the name are not needed to refuse; C's calling convention lets them be.
EMULATOR_API int aclopCompile(const char* name) { return emulator::refuse(name); }

EMULATOR_API int aclopCompileAndExecute(const char* name) { return emulator::refuse(name); }

EMULATOR_API int aclopCompileAndExecuteV2(const char* name) { return emulator::refuse(name); }

EMULATOR_API int aclopExecuteV2(const char* name) { return emulator::refuse(name); }

EMULATOR_API int aclGenGraphAndDumpForOp(const char* name) { return emulator::refuse(name); }

EMULATOR_API void GeGeneratorFinalize() {}

}  // extern "C"
