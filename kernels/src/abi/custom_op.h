// The structure that describes a custom operator to ONNX Runtime.
#pragma once

#include "abi/types.h"

namespace rx::abi {

// Fields were appended over the versions; the runtime reads those that `version` has. All functions
// but KernelCompute and KernelDestroy of the first group get the structure itself, so that one may
// put more behind it.
struct OrtCustomOp {
  std::uint32_t version;

  void* (*CreateKernel)(const OrtCustomOp* op, const void* api, const OrtKernelInfo* info);
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  int (*GetInputType)(const OrtCustomOp* op, std::size_t index);
  std::size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  int (*GetOutputType)(const OrtCustomOp* op, std::size_t index);
  std::size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  Presence (*GetInputCharacteristic)(const OrtCustomOp* op, std::size_t index);
  Presence (*GetOutputCharacteristic)(const OrtCustomOp* op, std::size_t index);
  Memory (*GetInputMemoryType)(const OrtCustomOp* op, std::size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  // from version 16
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const void* api, const OrtKernelInfo* info,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* op, OrtShapeInferContext* context);
  // from version 17
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
  // from version 18; null: nothing is shared
  std::size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  std::size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void*), "a version and 25 functions");

}  // namespace rx::abi
