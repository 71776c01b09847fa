// Convolutions of float32 images (batch, channels, height, width), one product a group. Bounds as
// in gemm.h, k being the length of a filter.
#pragma once

#include <cstdint>
#include <vector>

#include "base/span.h"
#include "base/threads.h"
#include "cpu/buffer.h"
#include "cpu/epilogue.h"
#include "cpu/quant.h"

namespace rx::cpu {

// An image of rank 1 has height 1 and kernels (1, k). Pairs are (along height, along width).
struct ConvShape {
  std::int64_t batch = 1;
  std::int64_t channels = 1;
  std::int64_t out_channels = 1;
  std::int64_t group = 1;
  std::int64_t height = 1;
  std::int64_t width = 1;
  std::int64_t kernel[2] = {1, 1};
  std::int64_t stride[2] = {1, 1};
  std::int64_t pads[4] = {0, 0, 0, 0};  // top, left, bottom, right
  std::int64_t dilation[2] = {1, 1};

  std::int64_t out(int axis) const {
    const std::int64_t reach = dilation[axis] * (kernel[axis] - 1) + 1;
    const std::int64_t size = (axis == 0 ? height : width) + pads[axis] + pads[axis + 2];
    return size < reach ? 0 : (size - reach) / stride[axis] + 1;
  }
  std::int64_t pixels() const { return out(0) * out(1); }
  std::int64_t group_in() const { return channels / group; }
  std::int64_t group_out() const { return out_channels / group; }
  std::int64_t depth() const { return group_in() * kernel[0] * kernel[1]; }  // of a filter
};

// Refuses sizes below 1 (0 is fine for batch, height, width), negative pads, groups that do not
// divide the channels.
void check(const ConvShape& shape);

// Filters (out_channels, depth) in the order that convolutions read them. Memory: 4 bytes an entry,
// output channels of a group rounded up to 16 unless there is only one.
class PackedFilter {
 public:
  // `w` is (out_channels, depth). It is not kept. Refuses groups that do not divide the channels;
  // throws std::bad_alloc.
  PackedFilter(std::int64_t out_channels, std::int64_t group, std::int64_t depth, const float* w);

  std::int64_t out_channels() const { return out_channels_; }
  std::int64_t group() const { return group_; }
  std::int64_t depth() const { return depth_; }
  // Numbers of a group, and in a row of its strips (depth, step).
  std::int64_t part() const { return part_; }
  std::int64_t step() const { return step_; }
  const float* data() const { return data_.data(); }

 private:
  std::int64_t out_channels_;
  std::int64_t group_;
  std::int64_t depth_;
  std::int64_t part_;
  std::int64_t step_;
  Buffer<float> data_;
};

// The same for weights in blocks; integers stay integers.
class PackedQuantFilter {
 public:
  // `weight` is (out_channels, depth).
  PackedQuantFilter(std::int64_t group, const QuantView& weight);

  std::int64_t out_channels() const { return out_channels_; }
  std::int64_t group() const { return group_; }
  std::int64_t depth() const { return parts_[0].k(); }
  // One for each group; one for all where a group has one output channel.
  const std::vector<PackedQuant>& parts() const { return parts_; }

 private:
  std::int64_t out_channels_;
  std::int64_t group_;
  std::vector<PackedQuant> parts_;
};

// y (batch, out_channels, out(0), out(1)) = epilogue(conv(x, filter)).
void conv(Threads& threads, const ConvShape& shape, const float* x, const PackedFilter& filter,
          float* y, const Epilogue& epilogue = {});
void quant_conv(Threads& threads, const ConvShape& shape, const float* x,
                const PackedQuantFilter& filter, float* y, const Epilogue& epilogue = {});

// One convolution after another; the epilogue follows the last. Stages must fit each other.
void conv_chain(Threads& threads, Span<const ConvShape> shapes, const float* x,
                Span<const PackedFilter* const> filters, float* y, const Epilogue& epilogue = {});

}  // namespace rx::cpu
