// The functions of ONNX Runtime's C interface that this library calls.
//
// `OrtApi` is an array of function pointers to which new versions only append, so a name, its place
// and its signature are all there is to know. SLOT(name, place, first version, parameters); all
// return a status (null: success), but for those of RX_PLAIN_SLOTS. The operator Probe calls
// every one with known values.
#pragma once

#define RX_STATUS_SLOTS(SLOT)                                                                      \
  SLOT(CreateCustomOpDomain, 26, 1, (const char* name, OrtCustomOpDomain** out))                   \
  SLOT(CustomOpDomain_Add, 27, 1, (OrtCustomOpDomain * domain, const OrtCustomOp* op))             \
  SLOT(AddCustomOpDomain, 28, 1, (OrtSessionOptions * options, OrtCustomOpDomain * domain))        \
  SLOT(GetTensorMutableData, 51, 1, (OrtValue * value, void** out))                                \
  SLOT(CastTypeInfoToTensorInfo, 55, 1,                                                            \
       (const OrtTypeInfo* type, const OrtTensorTypeAndShapeInfo** out))                           \
  SLOT(CreateTensorTypeAndShapeInfo, 57, 1, (OrtTensorTypeAndShapeInfo * *out))                    \
  SLOT(SetTensorElementType, 58, 1, (OrtTensorTypeAndShapeInfo * info, int type))                  \
  SLOT(SetDimensions, 59, 1,                                                                       \
       (OrtTensorTypeAndShapeInfo * info, const std::int64_t* sizes, std::size_t rank))            \
  SLOT(GetTensorElementType, 60, 1, (const OrtTensorTypeAndShapeInfo* info, int* out))             \
  SLOT(GetDimensionsCount, 61, 1, (const OrtTensorTypeAndShapeInfo* info, std::size_t* out))       \
  SLOT(GetDimensions, 62, 1,                                                                       \
       (const OrtTensorTypeAndShapeInfo* info, std::int64_t* sizes, std::size_t rank))             \
  SLOT(GetSymbolicDimensions, 63, 1,                                                               \
       (const OrtTensorTypeAndShapeInfo* info, const char** names, std::size_t rank))              \
  SLOT(GetTensorTypeAndShape, 65, 1, (const OrtValue* value, OrtTensorTypeAndShapeInfo** out))     \
  SLOT(KernelInfoGetAttribute_float, 85, 1,                                                        \
       (const OrtKernelInfo* info, const char* name, float* out))                                  \
  SLOT(KernelInfoGetAttribute_int64, 86, 1,                                                        \
       (const OrtKernelInfo* info, const char* name, std::int64_t* out))                           \
  SLOT(KernelInfoGetAttribute_string, 87, 1,                                                       \
       (const OrtKernelInfo* info, const char* name, char* out, std::size_t* size))                \
  SLOT(KernelContext_GetInputCount, 88, 1, (const OrtKernelContext* context, std::size_t* out))    \
  SLOT(KernelContext_GetOutputCount, 89, 1, (const OrtKernelContext* context, std::size_t* out))   \
  SLOT(KernelContext_GetInput, 90, 1,                                                              \
       (const OrtKernelContext* context, std::size_t index, const OrtValue** out))                 \
  SLOT(KernelContext_GetOutput, 91, 1,                                                             \
       (OrtKernelContext * context, std::size_t index, const std::int64_t* sizes,                  \
        std::size_t rank, OrtValue** out))                                                         \
  SLOT(KernelInfoGetAttributeArray_float, 162, 8,                                                  \
       (const OrtKernelInfo* info, const char* name, float* out, std::size_t* count))              \
  SLOT(KernelInfoGetAttributeArray_int64, 163, 8,                                                  \
       (const OrtKernelInfo* info, const char* name, std::int64_t* out, std::size_t* count))       \
  SLOT(KernelInfo_GetInputCount, 230, 14, (const OrtKernelInfo* info, std::size_t* out))           \
  SLOT(KernelInfo_GetOutputCount, 231, 14, (const OrtKernelInfo* info, std::size_t* out))          \
  SLOT(KernelInfo_GetInputName, 232, 14,                                                           \
       (const OrtKernelInfo* info, std::size_t index, char* out, std::size_t* size))               \
  SLOT(KernelInfo_GetInputTypeInfo, 234, 14,                                                       \
       (const OrtKernelInfo* info, std::size_t index, OrtTypeInfo** out))                          \
  SLOT(HasSessionConfigEntry, 237, 14,                                                             \
       (const OrtSessionOptions* options, const char* key, int* out))                              \
  SLOT(GetSessionConfigEntry, 238, 14,                                                             \
       (const OrtSessionOptions* options, const char* key, char* out, std::size_t* size))          \
  SLOT(KernelInfo_GetNodeName, 244, 15, (const OrtKernelInfo* info, char* out, std::size_t* size)) \
  SLOT(KernelInfoGetConstantInput_tensor, 249, 15,                                                 \
       (const OrtKernelInfo* info, std::size_t index, int* is_constant, const OrtValue** out))     \
  SLOT(ShapeInferContext_GetInputCount, 267, 17,                                                   \
       (const OrtShapeInferContext* context, std::size_t* out))                                    \
  SLOT(ShapeInferContext_GetInputTypeShape, 268, 17,                                               \
       (const OrtShapeInferContext* context, std::size_t index, OrtTensorTypeAndShapeInfo** out))  \
  SLOT(ShapeInferContext_GetAttribute, 269, 17,                                                    \
       (const OrtShapeInferContext* context, const char* name, const OrtOpAttr** out))             \
  SLOT(ShapeInferContext_SetOutputTypeShape, 270, 17,                                              \
       (const OrtShapeInferContext* context, std::size_t index,                                    \
        const OrtTensorTypeAndShapeInfo* info))                                                    \
  SLOT(SetSymbolicDimensions, 271, 17,                                                             \
       (OrtTensorTypeAndShapeInfo * info, const char** names, std::size_t rank))                   \
  SLOT(ReadOpAttr, 272, 17,                                                                        \
       (const OrtOpAttr* attribute, int type, void* out, std::size_t room, std::size_t* size))     \
  SLOT(KernelContext_ParallelFor, 274, 17,                                                         \
       (const OrtKernelContext* context, void (*body)(void*, std::size_t), std::size_t total,      \
        std::size_t batches, void* data))

#define RX_PLAIN_SLOTS(SLOT)                                                        \
  SLOT(CreateStatus, OrtStatus*, 0, (int code, const char* message))                \
  SLOT(GetErrorCode, int, 1, (const OrtStatus* status))                             \
  SLOT(GetErrorMessage, const char*, 2, (const OrtStatus* status))                  \
  SLOT(ReleaseStatus, void, 93, (OrtStatus * status))                               \
  SLOT(ReleaseTypeInfo, void, 98, (OrtTypeInfo * info))                             \
  SLOT(ReleaseTensorTypeAndShapeInfo, void, 99, (OrtTensorTypeAndShapeInfo * info)) \
  SLOT(ReleaseCustomOpDomain, void, 101, (OrtCustomOpDomain * domain))
