// From ONNX Runtime's values to our tensors.
#pragma once

#include <memory>

#include "abi/api.h"
#include "base/tensor.h"

namespace rx::door {

using TensorInfo =
    std::unique_ptr<abi::OrtTensorTypeAndShapeInfo, void (*)(abi::OrtTensorTypeAndShapeInfo*)>;

inline TensorInfo owned(const abi::Api& api, abi::OrtTensorTypeAndShapeInfo* info) {
  return {info, api.ReleaseTensorTypeAndShapeInfo};
}

// kNone for element types that we do not know.
Type type_of(const abi::Api& api, const abi::OrtTensorTypeAndShapeInfo* info);
Shape shape_of(const abi::Api& api, const abi::OrtTensorTypeAndShapeInfo* info);

// A view; not present() for a null value. Throws Error for an element type that we do not know.
Tensor view_of(const abi::Api& api, const abi::OrtValue* value);

}  // namespace rx::door
