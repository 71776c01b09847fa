// Sums of convolutions, by their definition.
#pragma once

#include <functional>

#include "cpu/conv.h"
#include "cpu_reference.h"

namespace rx::test {

using cpu::ConvShape;

// The exact sums of one output, filters being read as filter(channel, entry).
using Filter = std::function<double(std::int64_t, std::int64_t)>;

inline Sum sum_of(const ConvShape& s, const Floats& x, const Filter& filter, std::int64_t plane,
                  std::int64_t pixel) {
  Sum sum;
  const std::int64_t channel = plane % s.out_channels;
  const std::int64_t first =
      plane / s.out_channels * s.channels + channel / s.group_out() * s.group_in();
  for (std::int64_t at = 0; at < s.depth(); ++at) {
    const std::int64_t area = s.kernel[0] * s.kernel[1];
    const std::int64_t row =
        pixel / s.out(1) * s.stride[0] - s.pads[0] + at % area / s.kernel[1] * s.dilation[0];
    const std::int64_t column =
        pixel % s.out(1) * s.stride[1] - s.pads[1] + at % s.kernel[1] * s.dilation[1];
    if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
    const std::int64_t source = ((first + at / area) * s.height + row) * s.width + column;
    sum.add(filter(channel, at), x[static_cast<std::size_t>(source)]);
  }
  return sum;
}

inline ConvShape shape_of(std::int64_t batch, std::int64_t channels, std::int64_t out_channels,
                          std::int64_t group, std::int64_t height, std::int64_t width) {
  ConvShape s;
  s.batch = batch;
  s.channels = channels;
  s.out_channels = out_channels;
  s.group = group;
  s.height = height;
  s.width = width;
  return s;
}

inline ConvShape with(ConvShape s, std::int64_t kernel, std::int64_t stride, std::int64_t pad,
                      std::int64_t dilation = 1) {
  for (int axis = 0; axis < 2; ++axis) {
    s.kernel[axis] = kernel;
    s.stride[axis] = stride;
    s.dilation[axis] = dilation;
    s.pads[axis] = s.pads[axis + 2] = pad;
  }
  return s;
}

}  // namespace rx::test
