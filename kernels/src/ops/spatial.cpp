#include "ops/spatial.h"

#include "base/error.h"
#include "ops/checks.h"
#include "ops/schema.h"

namespace rx {
namespace {

// The axes of a stage: 0 is the height, 1 the width. Lists of one axis speak of the width.
void set_pair(std::int64_t (&pair)[2], Span<const std::int64_t> list, const char* name,
              std::size_t axes, std::int64_t least) {
  require(list.size() == axes, "the attribute ", name, ": found ", list.size(),
          " numbers; expected ", axes);
  for (std::size_t i = 0; i < axes; ++i) {
    require(list[i] >= least && list[i] <= kMostOfSize, "the attribute ", name, ": found ", list[i],
            "; expected ", least, " to ", kMostOfSize);
    pair[2 - axes + i] = list[i];
  }
}

}  // namespace

void set_geometry(cpu::ConvShape& stage, Span<const std::int64_t> kernel,
                  Span<const std::int64_t> strides, Span<const std::int64_t> pads,
                  Span<const std::int64_t> dilations) {
  const std::size_t axes = kernel.size();
  require(axes == 1 || axes == 2, "the attribute kernel_shape: found ", axes,
          " numbers; expected 1 or 2");
  set_pair(stage.kernel, kernel, "kernel_shape", axes, 1);
  set_pair(stage.stride, strides, "strides", axes, 1);
  set_pair(stage.dilation, dilations, "dilations", axes, 1);
  require(pads.size() == 2 * axes, "the attribute pads: found ", pads.size(), " numbers; expected ",
          2 * axes);
  std::int64_t begins[2] = {0, 0};
  std::int64_t ends[2] = {0, 0};
  set_pair(begins, {pads.data(), axes}, "pads", axes, 0);
  set_pair(ends, {pads.data() + axes, axes}, "pads", axes, 0);
  for (int axis = 0; axis < 2; ++axis) {
    stage.pads[axis] = begins[axis];
    stage.pads[axis + 2] = ends[axis];
  }
}

std::int64_t size_after(const cpu::ConvShape& stage, int axis, std::int64_t size) {
  if (size < 0) return kUnknown;
  require(size <= kMostOfSize, "an image has ", size, " pixels along an axis; expected at most ",
          kMostOfSize);
  // No product here leaves 64 bits: each number is below 2^31.
  const std::int64_t reach = stage.dilation[axis] * (stage.kernel[axis] - 1) + 1;
  const std::int64_t padded = size + stage.pads[axis] + stage.pads[axis + 2];
  if (size == 0 && padded < reach) return 0;
  require(padded >= reach, "the kernel reaches over ", reach, " pixels; found ", padded,
          " with the pads");
  return (padded - reach) / stage.stride[axis] + 1;
}

Shape shape_after(const cpu::ConvShape& stage, const Shape& shape, std::int64_t out_channels) {
  Shape found = {shape[0], out_channels};
  if (shape.size() == 4) found.push_back(size_after(stage, 0, shape[2]));
  found.push_back(size_after(stage, 1, shape.back()));
  return found;
}

cpu::ConvShape sized(cpu::ConvShape stage, const Shape& image) {
  stage.batch = image[0];
  stage.height = image.size() == 4 ? image[2] : 1;
  stage.width = image.back();
  return stage;
}

}  // namespace rx
