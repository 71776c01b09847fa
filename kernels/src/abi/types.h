// Names of ONNX Runtime's C interface, declared by ourselves: no package of ours brings its header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rx::abi {

// Only pointers to these are ever used.
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtStatus;
struct OrtValue;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtOpAttr;
struct OrtCustomOp;

// What ONNX Runtime gives to a library of operators. `GetApi` returns null for a version that the
// runtime does not know; `GetVersionString` is "1.N.P", where N is the newest version it knows.
struct OrtApiBase {
  const void* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

// OrtOpAttrType
enum class AttributeType : int { kInt = 1, kInts = 2, kFloat = 3, kFloats = 4, kString = 5 };

// OrtCustomOpInputOutputCharacteristic
enum class Presence : int { kRequired = 0, kOptional = 1, kVariadic = 2 };

// OrtMemType
enum class Memory : int { kDefault = 0, kCpuInput = -2 };

}  // namespace rx::abi
