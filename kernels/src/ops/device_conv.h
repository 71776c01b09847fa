// One convolution on an OpenCL device, plain or with weights in blocks.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cpu/conv.h"
#include "opencl/context.h"
#include "ops/checks.h"

namespace rx {

class DeviceConv {
 public:
  struct Format {
    Type real = Type::kFloat;  // of X, Y, bias, residual and scales
    std::int64_t bits = 32;    // of a weight; 8 or fewer: integers in blocks
    std::int64_t block = 32;   // integers that share a scale
    bool zeros = false;        // integers have zero points
    bool bias = false;
    bool residual = false;
  };
  struct Operands {
    const opencl::Buffer& x;
    const opencl::Buffer& weight;
    const opencl::Buffer& scales;
    const opencl::Buffer& zeros;
    const opencl::Buffer& bias;
    const opencl::Buffer& residual;
    const opencl::Buffer& y;
  };

  DeviceConv(opencl::Context& context, const cpu::ConvShape& stage, const Format& format,
             const Activated& activated);

  // Enqueues the convolution of images of the sizes in `shape`. Thread-safe. Throws Error where
  // they are too large for 32-bit offsets.
  void enqueue(opencl::Stream& stream, const cpu::ConvShape& shape, const Operands& operands) const;

 private:
  // Where each weight of a filter reads, for one size of images (see conv.cl), and its copy on the
  // device, which may be the same memory.
  struct Table {
    std::vector<std::int32_t> host;
    opencl::DeviceTensor device;
  };

  void enqueue_depthwise(opencl::Stream& stream, const cpu::ConvShape& shape,
                         const Operands& operands) const;
  std::shared_ptr<const Table> table(opencl::Context& context, const cpu::ConvShape& shape) const;

  Format format_;
  Activated activated_;
  bool depthwise_;
  std::shared_ptr<const opencl::Variant> variant_;
  mutable std::mutex guard_;
  mutable std::map<std::pair<std::int64_t, std::int64_t>, std::shared_ptr<const Table>> tables_;
};

}  // namespace rx
