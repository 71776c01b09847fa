#include "cpu/image.h"

#include <algorithm>

namespace rx::cpu {
namespace {

std::int64_t up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Grid::Grid(const ConvShape& s) : shape_(s) {
  copies_ = s.stride[1] != 1 || std::any_of(s.pads, s.pads + 4, [](auto pad) { return pad != 0; });
  const std::int64_t stride = s.stride[1];
  phases_.assign(static_cast<std::size_t>(stride), -1);
  rows_.assign(static_cast<std::size_t>(s.stride[0]), false);
  for (std::int64_t at = 0; at < std::min(s.kernel[0], s.stride[0]); ++at)
    rows_[static_cast<std::size_t>(at * s.dilation[0] % s.stride[0])] = true;
  phase_ = up(s.width + s.pads[1] + s.pads[3], stride);
  row_ = 0;
  for (std::int64_t at = 0; at < std::min(s.kernel[1], stride); ++at) {
    std::int64_t& phase = phases_[static_cast<std::size_t>(at * s.dilation[1] % stride)];
    if (phase < 0) {
      phase = row_;
      row_ += phase_;
    }
  }
  plane_ = row_ * (s.height + s.pads[0] + s.pads[2]) + (copies_ ? kPanel : 0);
  down_ = row_ * s.stride[0];
}

std::vector<std::int64_t> Grid::offsets(std::int64_t channels) const {
  const ConvShape& s = shape_;
  std::vector<std::int64_t> found;
  found.reserve(static_cast<std::size_t>(channels * s.kernel[0] * s.kernel[1]));
  for (std::int64_t channel = 0; channel < channels; ++channel)
    for (std::int64_t row = 0; row < s.kernel[0]; ++row)
      for (std::int64_t column = 0; column < s.kernel[1]; ++column) {
        const std::int64_t right = column * s.dilation[1];
        found.push_back(channel * plane_ + row * s.dilation[0] * row_ +
                        phases_[static_cast<std::size_t>(right % s.stride[1])] +
                        right / s.stride[1]);
      }
  return found;
}

void Grid::copy(const float* from, const float* end, float* to) const {
  const ConvShape& s = shape_;
  if (s.stride[1] == 1)
    return kernels().add_margin(
        {from, end, s.height, s.width, {s.pads[0], s.pads[1], s.pads[2], s.pads[3]}, to});
  const std::int64_t rows = s.height + s.pads[0] + s.pads[2];
  for (std::int64_t row = 0; row < rows; ++row, to += row_) {
    if (!rows_[static_cast<std::size_t>(row % s.stride[0])]) continue;
    const std::int64_t source = row - s.pads[0];
    if (source < 0 || source >= s.height)
      std::fill_n(to, row_, 0.0f);
    else
      copy_row(from + source * s.width, to);
  }
}

void Grid::copy_row(const float* from, float* to) const {
  const ConvShape& s = shape_;
  const std::int64_t stride = s.stride[1];
  for (std::int64_t at = 0; at < stride; ++at) {
    const std::int64_t place = phases_[static_cast<std::size_t>(at)];
    if (place < 0) continue;
    float* const phase = to + place;
    // number i of the phase is column i * stride + at - left
    const std::int64_t left = s.pads[1];
    const std::int64_t begin = std::min(phase_, up(std::max<std::int64_t>(0, left - at), stride));
    const std::int64_t end =
        std::max(begin, up(std::max<std::int64_t>(0, left + s.width - at), stride));
    const float* const first = from + (begin * stride + at - left);
    std::fill(phase, phase + begin, 0.0f);
    std::fill(phase + end, phase + phase_, 0.0f);
    if (stride == 2)
      kernels().every_second(first, phase + begin, end - begin);
    else
      for (std::int64_t i = begin; i < end; ++i) phase[i] = first[(i - begin) * stride];
  }
}

// Pixels of a panel that lie one after another.
std::int64_t PixelsRight::runs(std::int64_t panel, Run* to) const {
  std::int64_t count = 0;
  const std::int64_t first = panel * kPanel;
  const std::int64_t wide = std::min(kPanel, pixels_ - first);
  std::int64_t row = first / width_;
  std::int64_t column = first % width_;
  for (std::int64_t at = 0; at < wide; ++row, column = 0) {
    const std::int64_t size = std::min(wide - at, width_ - column);
    const std::int64_t from = row * down_ + column;
    if (count > 0 && to[count - 1].from + to[count - 1].size == from)
      to[count - 1].size += size;
    else
      to[count++] = {at, from, size};
    at += size;
  }
  return count;
}

Right::Block PixelsRight::block(Range panels, Range k, float* scratch) const {
  Run found[kPanel];
  for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
    const std::int64_t count = runs(panel, found);
    kernels().pack_pixels({image_, end_, offsets_ + k.begin, k.size(), found, count,
                           scratch + (panel - panels.begin) * k.size() * kPanel});
  }
  return {scratch, k.size() * kPanel};
}

}  // namespace rx::cpu
