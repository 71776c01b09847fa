// Small questions that all operators ask of their nodes.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "cpu/epilogue.h"
#include "ops/operator.h"

namespace rx {

inline Type type_at(const NodeInfo& node, std::size_t index) {
  return index < node.types.size() ? node.types[index] : Type::kNone;
}

inline Tensor constant_at(const NodeInfo& node, std::size_t index) {
  return index < node.constants.size() ? node.constants[index] : Tensor{};
}

template <typename T>
const T& item(Span<const T> all, std::size_t index, const T& otherwise) {
  return index < all.size() ? all[index] : otherwise;
}

// Whether two sizes can be the same one; sizes below 0 are not known.
inline bool agree(std::int64_t found, std::int64_t expected) {
  return found < 0 || expected < 0 || found == expected;
}

inline void require_shape(const char* name, const Shape& found, const Shape& expected) {
  bool same = found.size() == expected.size();
  for (std::size_t axis = 0; same && axis < found.size(); ++axis)
    same = agree(found[axis], expected[axis]);
  require(same, name, ": found the shape ", text_of(found), "; expected ", text_of(expected));
}

// An attribute between two bounds, both included.
inline std::int64_t bounded(const Attributes& attributes, const char* name, std::int64_t least,
                            std::int64_t most) {
  const auto value = attributes.get<std::int64_t>(name);
  require(value >= least && value <= most, "the attribute ", name, ": found ", value, "; expected ",
          least, " to ", most);
  return value;
}

// The largest size that kernels and packed layouts count with 32 bits.
constexpr std::int64_t kMostOfSize = std::int64_t{0x7fffffff};

struct Activated {
  cpu::Activation activation = cpu::Activation::kNone;
  float low = 0;
  float high = 0;

  explicit Activated(const Attributes& attributes) {
    const cpu::Epilogue plain;
    activation = cpu::activation_of(attributes.get_or<std::string>("activation", ""));
    low = attributes.get_or<float>("clip_min", plain.low);
    high = attributes.get_or<float>("clip_max", plain.high);
    require(low <= high, "the attributes clip_min and clip_max: found ", low, " and ", high,
            "; expected numbers, the first not above the second");
  }

  cpu::Epilogue with(const float* bias, const float* residual) const {
    return {activation, low, high, bias, residual};
  }
};

}  // namespace rx
