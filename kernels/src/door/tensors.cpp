#include "door/tensors.h"

#include "base/error.h"

namespace rx::door {

Type type_of(const abi::Api& api, const abi::OrtTensorTypeAndShapeInfo* info) {
  int found = 0;
  api.check(api.GetTensorElementType(info, &found));
  for (const Type type :
       {Type::kFloat, Type::kUint8, Type::kInt8, Type::kInt32, Type::kInt64, Type::kHalf})
    if (found == static_cast<int>(type)) return type;
  return Type::kNone;
}

Shape shape_of(const abi::Api& api, const abi::OrtTensorTypeAndShapeInfo* info) {
  std::size_t rank = 0;
  api.check(api.GetDimensionsCount(info, &rank));
  Shape shape(rank);
  if (rank != 0) api.check(api.GetDimensions(info, shape.data(), rank));
  return shape;
}

Tensor view_of(const abi::Api& api, const abi::OrtValue* value) {
  Tensor tensor;
  if (value == nullptr) return tensor;
  abi::OrtTensorTypeAndShapeInfo* raw = nullptr;
  api.check(api.GetTensorTypeAndShape(value, &raw));
  const TensorInfo info = owned(api, raw);
  tensor.type = type_of(api, info.get());
  require(tensor.present(), "an input has an element type that this library does not know");
  tensor.shape = shape_of(api, info.get());
  // The interface has no reading form; inputs are never written to.
  api.check(api.GetTensorMutableData(const_cast<abi::OrtValue*>(value), &tensor.data));
  return tensor;
}

}  // namespace rx::door
