#include "cpu/conv.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "cpu/depthwise.h"
#include "cpu/few_pixels.h"
#include "cpu/image.h"
#include "cpu/product.h"
#include "cpu/quant_sides.h"
#include "cpu/tasks.h"

namespace rx::cpu {
namespace {

// Numbers of images that are copied at once, or one image.
constexpr std::int64_t kCopied = 1 << 24;

// Strips that were packed before: (rows / 16, depth, 16), or one row with its own step.
class FilterLeft final : public Left {
 public:
  FilterLeft(const float* data, std::int64_t depth, std::int64_t step)
      : data_(data), depth_(depth), step_(step) {}
  Strip strip(std::int64_t row, std::int64_t, Range k, float*) const override {
    return {data_ + row * depth_ + k.begin * step_, step_};
  }

 private:
  const float* data_;
  std::int64_t depth_;
  std::int64_t step_;
};

// The filters of all groups.
using Filters = std::vector<std::unique_ptr<Left>>;

// Some images of a batch, as one product for each image and group.
void multiply(Threads& threads, const ConvShape& s, const Grid& grid, const float* image,
              const float* end, const Filters& filters, std::int64_t granule, float* y,
              const Epilogue& epilogue) {
  const std::vector<std::int64_t> offsets = grid.offsets(s.group_in());
  std::vector<PixelsRight> pixels;
  std::vector<Product> products;
  pixels.reserve(static_cast<std::size_t>(s.batch * s.group));
  for (std::int64_t part = 0; part < s.batch * s.group; ++part) {
    pixels.emplace_back(s, grid, offsets, image + part * s.group_in() * grid.plane(), end);
    const std::int64_t channel = part % s.group * s.group_out();
    const std::int64_t at = part * s.group_out() * s.pixels();
    products.push_back({s.group_out(), s.pixels(), s.depth(),
                        filters[static_cast<std::size_t>(part % s.group)].get(), &pixels.back(),
                        y + at, moved(epilogue, channel, at), true, granule});
  }
  run_products(threads, products);
}

void convolve(Threads& threads, const ConvShape& shape, const float* x, const Filters& filters,
              std::int64_t granule, float* y, const Epilogue& epilogue) {
  const Grid grid(shape);
  const std::int64_t image = shape.channels * shape.height * shape.width;
  const std::int64_t out = shape.out_channels * shape.pixels();
  if (!grid.copies())
    return multiply(threads, shape, grid, x, x + shape.batch * image, filters, granule, y,
                    epilogue);
  const std::int64_t copied = shape.channels * grid.plane();
  const std::int64_t most =
      std::clamp<std::int64_t>(kCopied / copied, 1, std::max<std::int64_t>(1, shape.batch));
  const Scratch copy(most * copied);
  for (std::int64_t first = 0; first < shape.batch; first += most) {
    ConvShape some = shape;
    some.batch = std::min(most, shape.batch - first);
    const std::int64_t planes = some.batch * shape.channels;
    run_ranges(threads, planes, static_cast<double>(grid.plane()), [&](Range part) {
      for (std::int64_t plane = part.begin; plane < part.end; ++plane)
        grid.copy(x + first * image + plane * shape.height * shape.width, x + shape.batch * image,
                  copy.data() + plane * grid.plane());
    });
    multiply(threads, some, grid, copy.data(), copy.data() + planes * grid.plane(), filters,
             granule, y + first * out, moved(epilogue, 0, first * out));
  }
}

bool is_depthwise(const ConvShape& s) {
  return s.group_in() == 1 && s.group_out() == 1;
}

template <typename Filter>
void check_filter(const ConvShape& s, const Filter& filter) {
  check(s);
  require(filter.out_channels() == s.out_channels && filter.depth() == s.depth() &&
              filter.group() == s.group,
          "found filters (", filter.out_channels(), ", ", filter.depth(), ") of ", filter.group(),
          " groups; expected (", s.out_channels, ", ", s.depth(), ") of ", s.group);
}

bool empty(const ConvShape& s) {
  return s.batch == 0 || s.pixels() == 0;
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
    : out_channels_(out_channels), group_(group), depth_(depth) {
  require(group >= 1 && out_channels % group == 0, "the ", group,
          " groups of a convolution do not divide its ", out_channels, " filters");
  const std::int64_t rows = out_channels / group;
  step_ = rows == 1 ? 1 : kPanel;
  part_ = (rows + step_ - 1) / step_ * step_ * depth;
  data_ = Buffer<float>(static_cast<std::size_t>(group * part_));
  std::fill_n(data_.data(), group * part_, 0.0f);
  for (std::int64_t at = 0; at < group; ++at)
    for (std::int64_t row = 0; row < rows; row += step_)
      kernels().pack_strip(w + (at * rows + row) * depth, depth, std::min(step_, rows - row), depth,
                           data_.data() + at * part_ + row * depth, step_);
}

PackedQuantFilter::PackedQuantFilter(std::int64_t group, const QuantView& weight)
    : out_channels_(weight.rows), group_(group) {
  check(weight);
  require(group >= 1 && weight.rows % group == 0, "the ", group,
          " groups of a convolution do not divide its ", weight.rows, " filters");
  const std::int64_t parts = group == weight.rows ? 1 : group;
  QuantView view = weight;
  view.rows /= parts;
  for (std::int64_t part = 0; part < parts; ++part) {
    parts_.emplace_back(view);
    view.data += view.rows * weight.blocks() * weight.block_bytes();
    view.scales += view.rows * weight.blocks();
    if (view.zeros != nullptr) view.zeros += view.rows * weight.zero_bytes();
  }
}

void conv(Threads& threads, const ConvShape& shape, const float* x, const PackedFilter& filter,
          float* y, const Epilogue& epilogue) {
  check_filter(shape, filter);
  if (empty(shape)) return;
  if (is_depthwise(shape)) return depthwise(threads, shape, x, filter.data(), 1, y, epilogue);
  if (has_few_pixels(shape)) {
    Sides sides;
    for (std::int64_t group = 0; group < shape.group; ++group)
      sides.push_back(std::make_unique<PackedRight>(filter.data() + group * filter.part(),
                                                    filter.depth() * kPanel));
    return few_pixels(threads, shape, x, sides, 1, y, epilogue);
  }
  Filters filters;
  for (std::int64_t group = 0; group < shape.group; ++group)
    filters.push_back(std::make_unique<FilterLeft>(filter.data() + group * filter.part(),
                                                   filter.depth(), filter.step()));
  convolve(threads, shape, x, filters, 1, y, epilogue);
}

void quant_conv(Threads& threads, const ConvShape& shape, const float* x,
                const PackedQuantFilter& filter, float* y, const Epilogue& epilogue) {
  check_filter(shape, filter);
  if (empty(shape)) return;
  if (has_few_pixels(shape)) {
    Sides sides;
    for (const PackedQuant& part : filter.parts())
      sides.push_back(std::make_unique<QuantRight>(part));
    return few_pixels(threads, shape, x, sides, filter.parts()[0].granule(), y, epilogue);
  }
  Filters filters;
  if (shape.group_out() > 1) {
    for (const PackedQuant& part : filter.parts())
      filters.push_back(std::make_unique<QuantLeft>(part));
    return convolve(threads, shape, x, filters, filter.parts()[0].granule(), y, epilogue);
  }
  // one output channel a group: all of them are restored, which is little
  const PackedQuant& weight = filter.parts()[0];
  const Scratch restored(panels(weight.n()) * weight.k() * kPanel);
  for (std::int64_t panel = 0; panel < panels(weight.n()); ++panel)
    weight.restore(panel, {0, weight.k()}, restored.data() + panel * weight.k() * kPanel);
  if (is_depthwise(shape))
    return depthwise(threads, shape, x, restored.data(), kPanel, y, epilogue);
  for (std::int64_t group = 0; group < shape.group; ++group)
    filters.push_back(std::make_unique<FilterLeft>(
        restored.data() + group / kPanel * kPanel * weight.k() + group % kPanel, weight.k(),
        kPanel));
  convolve(threads, shape, x, filters, 1, y, epilogue);
}

void conv_chain(Threads& threads, Span<const ConvShape> shapes, const float* x,
                Span<const PackedFilter* const> filters, float* y, const Epilogue& epilogue) {
  require(!shapes.empty() && shapes.size() == filters.size(), "a chain has ", shapes.size(),
          " convolutions and ", filters.size(), " filters");
  std::int64_t most = 0;  // numbers between two stages
  for (std::size_t stage = 0; stage + 1 < shapes.size(); ++stage) {
    const ConvShape& here = shapes[stage];
    const ConvShape& next = shapes[stage + 1];
    require(here.batch == next.batch && here.out_channels == next.channels &&
                here.out(0) == next.height && here.out(1) == next.width,
            "the convolutions ", stage, " and ", stage + 1, " of a chain do not fit each other");
    most = std::max(most, here.batch * here.out_channels * here.pixels());
  }
  const Scratch one(most);
  const Scratch other(shapes.size() > 2 ? most : 0);
  const float* from = x;
  for (std::size_t stage = 0; stage < shapes.size(); ++stage) {
    const bool last = stage + 1 == shapes.size();
    float* const to = last ? y : stage % 2 == 0 ? one.data() : other.data();
    conv(threads, shapes[stage], from, *filters[stage], to, last ? epilogue : Epilogue{});
    from = to;
  }
}

}  // namespace rx::cpu
