// Tensors, buffers and attributes as the older operator interface takes them: torch_npu makes them
// before it launches. Attributes are dropped; no operator that is emulated here has one.

#include "runtime/descriptions.hpp"

#include "emulator.hpp"
#include "runtime/errors.hpp"

extern "C" {

EMULATOR_API aclTensorDesc* aclCreateTensorDesc(aclDataType dataType, int numDims,
                                                const int64_t* dims, aclFormat format) {
  auto* desc = new aclTensorDesc{dataType, format, {}, ""};
  if (numDims > 0) desc->shape.assign(dims, dims + numDims);
  return desc;
}

EMULATOR_API void aclDestroyTensorDesc(const aclTensorDesc* desc) { delete desc; }

EMULATOR_API void aclSetTensorDescName(aclTensorDesc* desc, const char* name) { desc->name = name; }

EMULATOR_API const char* aclGetTensorDescName(aclTensorDesc* desc) { return desc->name.c_str(); }

EMULATOR_API aclError aclSetTensorFormat(aclTensorDesc* desc, aclFormat format) {
  desc->format = format;
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclSetTensorShape(aclTensorDesc* desc, int numDims, const int64_t* dims) {
  desc->shape.assign(dims, dims + numDims);
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclSetTensorShapeRange(aclTensorDesc*, size_t,
                                             int64_t[][ACL_TENSOR_SHAPE_RANGE_NUM]) {
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclSetTensorPlaceMent(aclTensorDesc*, aclMemType) { return ACL_SUCCESS; }

EMULATOR_API aclError aclSetTensorConst(aclTensorDesc*, void*, size_t) { return ACL_SUCCESS; }

EMULATOR_API aclDataType aclGetTensorDescType(const aclTensorDesc* desc) { return desc->type; }

EMULATOR_API aclFormat aclGetTensorDescFormat(const aclTensorDesc* desc) { return desc->format; }

EMULATOR_API size_t aclGetTensorDescNumDims(const aclTensorDesc* desc) {
  return desc->shape.size();
}

EMULATOR_API aclError aclGetTensorDescDimV2(const aclTensorDesc* desc, size_t index,
                                            int64_t* dimSize) {
  if (index >= desc->shape.size()) {
    return emulator::invalid("aclGetTensorDescDimV2", "there is no such dimension");
  }
  *dimSize = desc->shape[index];
  return ACL_SUCCESS;
}

EMULATOR_API aclDataBuffer* aclCreateDataBuffer(void* data, size_t size) {
  return new aclDataBuffer{data, size};
}

EMULATOR_API aclError aclDestroyDataBuffer(const aclDataBuffer* dataBuffer) {
  delete dataBuffer;
  return ACL_SUCCESS;
}

EMULATOR_API void* aclGetDataBufferAddr(const aclDataBuffer* dataBuffer) {
  return dataBuffer->data;
}

EMULATOR_API size_t aclGetDataBufferSizeV2(const aclDataBuffer* dataBuffer) {
  return dataBuffer->bytes;
}

EMULATOR_API aclopAttr* aclopCreateAttr() { return new aclopAttr; }

EMULATOR_API void aclopDestroyAttr(const aclopAttr* attr) { delete attr; }

EMULATOR_API aclError aclopSetAttrBool(aclopAttr*, const char*, uint8_t) { return ACL_SUCCESS; }

EMULATOR_API aclError aclopSetAttrInt(aclopAttr*, const char*, int64_t) { return ACL_SUCCESS; }

EMULATOR_API aclError aclopSetAttrFloat(aclopAttr*, const char*, float) { return ACL_SUCCESS; }

EMULATOR_API aclError aclopSetAttrString(aclopAttr*, const char*, const char*) {
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclopSetAttrDataType(aclopAttr*, const char*, aclDataType) {
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclopSetAttrListInt(aclopAttr*, const char*, int, const int64_t*) {
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclopSetAttrListFloat(aclopAttr*, const char*, int, const float*) {
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclopSetAttrListBool(aclopAttr*, const char*, int, const uint8_t*) {
  return ACL_SUCCESS;
}

EMULATOR_API aclError aclopSetAttrListListInt(aclopAttr*, const char*, int, const int*,
                                              const int64_t* const[]) {
  return ACL_SUCCESS;
}

}  // extern "C"
