#include "cpu/conv.h"

#include <algorithm>

#include "base/error.h"
#include "cpu/activation.h"

namespace rx::cpu {
namespace {

constexpr std::int64_t kPanel = 16;

// Filters are read through `filter(channel, at)`.
template <typename Filter>
void convolve(Threads& threads, const ConvShape& s, const float* x, const Filter& filter, float* y,
              const Epilogue& epilogue) {
  check(s);
  const std::int64_t planes = s.batch * s.out_channels;
  threads.each(static_cast<std::size_t>(planes), [&](std::size_t index) {
    const std::int64_t plane = static_cast<std::int64_t>(index);
    const std::int64_t channel = plane % s.out_channels;
    const std::int64_t first =
        plane / s.out_channels * s.channels + channel / s.group_out() * s.group_in();
    for (std::int64_t pixel = 0; pixel < s.pixels(); ++pixel) {
      float sum = 0;
      for (std::int64_t at = 0; at < s.depth(); ++at) {
        const std::int64_t top = at / s.kernel[1] % s.kernel[0] * s.dilation[0] - s.pads[0];
        const std::int64_t left = at % s.kernel[1] * s.dilation[1] - s.pads[1];
        const std::int64_t row = pixel / s.out(1) * s.stride[0] + top;
        const std::int64_t column = pixel % s.out(1) * s.stride[1] + left;
        if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
        const std::int64_t source = first + at / (s.kernel[0] * s.kernel[1]);
        sum += filter(channel, at) * x[(source * s.height + row) * s.width + column];
      }
      const std::int64_t to = plane * s.pixels() + pixel;
      y[to] = finish(sum, epilogue, channel, to);
    }
  });
}

}  // namespace

void check(const ConvShape& s) {
  bool fine = s.batch >= 0 && s.height >= 0 && s.width >= 0 && s.channels >= 1 &&
              s.out_channels >= 1 && s.group >= 1;
  for (int axis = 0; axis < 2; ++axis)
    fine = fine && s.kernel[axis] >= 1 && s.stride[axis] >= 1 && s.dilation[axis] >= 1 &&
           s.pads[axis] >= 0 && s.pads[axis + 2] >= 0;
  require(fine, "a convolution has a size, stride, dilation or pad that is too small");
  require(s.channels % s.group == 0 && s.out_channels % s.group == 0, "the ", s.group,
          " groups of a convolution do not divide its channels, ", s.channels, " and ",
          s.out_channels);
}

PackedFilter::PackedFilter(std::int64_t out_channels, std::int64_t group, std::int64_t depth,
                           const float* w)
    : out_channels_(out_channels),
      group_(group),
      depth_(depth),
      data_(static_cast<std::size_t>(out_channels * depth)) {
  std::copy(w, w + out_channels * depth, data_.data());
}

PackedQuantFilter::PackedQuantFilter(std::int64_t group, const QuantView& weight)
    : out_channels_(weight.rows) {
  check(weight);
  require(group >= 1 && weight.rows % group == 0, "the ", group,
          " groups of a convolution do not divide its ", weight.rows, " filters");
  for (std::int64_t part = 0; part < group; ++part) {
    QuantView view = weight;
    view.rows /= group;
    const std::int64_t before = part * view.rows;
    view.data += before * weight.blocks() * weight.block_bytes();
    view.scales += before * weight.blocks();
    if (weight.zeros != nullptr) view.zeros += before * weight.zero_bytes();
    parts_.emplace_back(view);
  }
}

void conv(Threads& threads, const ConvShape& shape, const float* x, const PackedFilter& filter,
          float* y, const Epilogue& epilogue) {
  convolve(
      threads, shape, x,
      [&](std::int64_t channel, std::int64_t at) {
        return filter.data()[channel * filter.depth() + at];
      },
      y, epilogue);
}

void quant_conv(Threads& threads, const ConvShape& shape, const float* x,
                const PackedQuantFilter& filter, float* y, const Epilogue& epilogue) {
  convolve(
      threads, shape, x,
      [&](std::int64_t channel, std::int64_t at) {
        const PackedQuant& part = filter.part(channel / shape.group_out());
        const std::int64_t row = channel % shape.group_out();
        const int each = 32 / part.bits();
        const std::int64_t block = row / kPanel * part.blocks() + at / part.block();
        const std::int64_t in = at % part.block();
        const std::uint32_t word =
            part.data()[(block * part.words() + in / each) * kPanel + row % kPanel];
        const float value =
            static_cast<float>(word >> (in % each * part.bits()) & ((1u << part.bits()) - 1));
        const std::int64_t grid = block * kPanel + row % kPanel;
        const float zero = part.zeros() != nullptr ? part.zeros()[grid]
                                                   : static_cast<float>(1 << (part.bits() - 1));
        return (value - zero) * part.scales()[grid];
      },
      y, epilogue);
}

void conv_chain(Threads& threads, Span<const ConvShape> shapes, const float* x,
                Span<const PackedFilter* const> filters, float* y, const Epilogue& epilogue) {
  Buffer<float> now;
  for (std::size_t stage = 0; stage < shapes.size(); ++stage) {
    const ConvShape& shape = shapes[stage];
    const bool last = stage + 1 == shapes.size();
    Buffer<float> next;
    if (!last)
      next = Buffer<float>(
          static_cast<std::size_t>(shape.batch * shape.out_channels * shape.pixels()));
    conv(threads, shape, stage == 0 ? x : now.data(), *filters[stage], last ? y : next.data(),
         last ? epilogue : Epilogue{});
    now = std::move(next);
  }
}

}  // namespace rx::cpu
