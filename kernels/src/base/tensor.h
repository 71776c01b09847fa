// Tensors in host memory: row-major, contiguous, not owned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"

namespace rx {

// Values of ONNXTensorElementDataType and TensorProto.DataType, of the types that we compute with.
enum class Type {
  kNone = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
  kHalf = 10
};

inline std::size_t size_of(Type type) {
  switch (type) {
    case Type::kUint8:
    case Type::kInt8:
      return 1;
    case Type::kHalf:
      return 2;
    case Type::kFloat:
    case Type::kInt32:
      return 4;
    case Type::kInt64:
      return 8;
    case Type::kNone:
      break;
  }
  refuse("a tensor has no type that this library computes with");
}

using Shape = std::vector<std::int64_t>;

inline std::string text_of(const Shape& shape) {
  std::string out = "(";
  for (std::size_t axis = 0; axis < shape.size(); ++axis)
    out += (axis ? ", " : "") + std::to_string(shape[axis]);
  return out + ")";
}

// Number of elements of `shape`; refuses negative sizes and products beyond 2^62.
inline std::int64_t elements(const Shape& shape) {
  constexpr std::int64_t kMost = std::int64_t{1} << 62;
  std::int64_t count = 1;
  bool none = false;
  for (const std::int64_t size : shape) {
    require(size >= 0, "the shape ", text_of(shape), " has a negative size");
    none = none || size == 0;
    if (size > 0) {
      require(count <= kMost / size, "the shape ", text_of(shape), " has too many elements");
      count *= size;
    }
  }
  return none ? 0 : count;
}

// A view; `data` is null for an input that is absent (its type is then kNone).
struct Tensor {
  Type type = Type::kNone;
  Shape shape;
  void* data = nullptr;

  bool present() const { return type != Type::kNone; }
  std::int64_t count() const { return elements(shape); }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(type); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace rx
