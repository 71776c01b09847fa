// Geometry of convolutions as attributes give it, checked, for images of one or two spatial axes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/span.h"
#include "base/tensor.h"
#include "cpu/conv.h"

namespace rx {

// Sets kernel, strides, pads and dilations of a stage from lists of one or two axes (pads have the
// begins first, then the ends). One axis becomes the width of an image of height 1.
// Throws Error where a list has another length or a number is out of range.
void set_geometry(cpu::ConvShape& stage, Span<const std::int64_t> kernel,
                  Span<const std::int64_t> strides, Span<const std::int64_t> pads,
                  Span<const std::int64_t> dilations);

// The size of one axis after a convolution; kUnknown for one that is not known. Throws Error where
// the kernel reaches beyond the padded image, unless that has no pixels at all.
std::int64_t size_after(const cpu::ConvShape& stage, int axis, std::int64_t size);

// (batch, channels, spatial...) after a stage that starts from `shape`, of rank 3 or 4.
Shape shape_after(const cpu::ConvShape& stage, const Shape& shape, std::int64_t out_channels);

// The stage with the sizes of an image; rank 3 has height 1.
cpu::ConvShape sized(cpu::ConvShape stage, const Shape& image);

}  // namespace rx
