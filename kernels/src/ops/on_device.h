// What operators share where they run on an OpenCL device.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "opencl/context.h"
#include "ops/checks.h"
#include "ops/operator.h"

namespace rx {

// An input that may be a constant: uploaded once, else it comes with each run.
class DeviceInput {
 public:
  DeviceInput() = default;
  DeviceInput(const NodeInfo& node, std::size_t index)
      : index_(index), type_(type_at(node, index)), host_(constant_at(node, index)) {}

  bool present() const { return type_ != Type::kNone; }

  void upload(opencl::Context& context) {
    if (host_.present() && host_.count() != 0) device_ = context.constant(host_);
  }

  // What a kernel gets: any buffer where the input is absent.
  const opencl::Buffer& buffer(opencl::Stream& stream,
                               Span<const opencl::DeviceTensor> inputs) const {
    if (device_.buffer.valid()) return device_.buffer;
    return present() ? inputs[index_].buffer : stream.context().unused();
  }

 private:
  std::size_t index_ = 0;
  Type type_ = Type::kNone;
  Tensor host_;
  opencl::DeviceTensor device_;
};

// Kernels count with 32 bits.
inline std::int32_t int_of(const char* name, std::int64_t size) {
  require(size <= kMostOfSize, name, " is ", size, "; OpenCL kernels take at most ", kMostOfSize);
  return static_cast<std::int32_t>(size);
}

inline std::int64_t bits_of(Type type) {
  return static_cast<std::int64_t>(8 * size_of(type));
}

}  // namespace rx
