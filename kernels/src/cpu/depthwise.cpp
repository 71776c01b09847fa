#include "cpu/depthwise.h"

#include <algorithm>
#include <vector>

#include "cpu/image.h"
#include "cpu/kernels.h"
#include "cpu/product.h"
#include "cpu/tasks.h"

namespace rx::cpu {
namespace {

constexpr std::int64_t kTogether = 4096;  // numbers that are copied at once: half of a first cache
constexpr std::int64_t kSmall = 256;      // pixels for which masks cost less than a margin

// Planes of all images, each by itself.
class Planes {
 public:
  Planes(const ConvShape& shape, const float* x, const float* filters, std::int64_t step, float* y,
         const Epilogue& epilogue)
      : s_(shape),
        x_(x),
        filters_(filters),
        step_(step),
        y_(y),
        epilogue_(epilogue),
        size_(shape.height * shape.width),
        pixels_(shape.pixels()) {}
  virtual ~Planes() = default;

  void run(Threads& threads) const {
    const double cost = static_cast<double>(pixels_ * s_.depth());
    run_ranges(threads, s_.batch * s_.channels, cost, [&](Range part) { planes(part); });
  }

 protected:
  virtual void planes(Range part) const = 0;

  const float* taps(std::int64_t channel) const {
    const std::int64_t lane = channel & (step_ - 1);  // step is 1 or 16
    return filters_ + (channel - lane) * s_.depth() + lane;
  }
  void finish(std::int64_t plane, std::int64_t channel) const {
    run_finish(moved(epilogue_, channel, plane * pixels_), true, {0, 1}, {0, pixels_}, pixels_,
               y_ + plane * pixels_);
  }
  std::int64_t after(std::int64_t channel) const {
    return channel + 1 == s_.channels ? 0 : channel + 1;
  }

  const ConvShape& s_;
  const float* x_;
  const float* filters_;
  std::int64_t step_;
  float* y_;
  const Epilogue& epilogue_;
  std::int64_t size_;
  std::int64_t pixels_;
};

// In the image, or in a copy with its margin.
class CopiedPlanes final : public Planes {
 public:
  CopiedPlanes(const ConvShape& shape, const float* x, const float* filters, std::int64_t step,
               float* y, const Epilogue& epilogue)
      : Planes(shape, x, filters, step, y, epilogue),
        grid_(shape),
        offsets_(grid_.offsets(1)),
        rows_(shape.out(0)),
        columns_(shape.out(1)),
        // narrow images are copied too, as whole vectors are read
        copies_(grid_.copies() || columns_ < kPanel) {}

 private:
  // Some planes are copied before the first one is read again: a processor waits where a vector is
  // read that lies across others that were written just before.
  void planes(Range part) const override {
    const std::int64_t stride = grid_.plane() + 4 * kPanel;
    const std::int64_t many = copies_ ? std::max<std::int64_t>(1, kTogether / stride) : 1;
    const Scratch scratch(copies_ ? many * stride : 0);
    std::int64_t channel = part.begin % s_.channels;
    for (std::int64_t first = part.begin; first < part.end; first += many) {
      const std::int64_t end = std::min(first + many, part.end);
      for (std::int64_t at = first; copies_ && at < end; ++at)
        grid_.copy(x_ + at * size_, x_ + s_.batch * s_.channels * size_,
                   scratch.data() + (at - first) * stride);
      for (std::int64_t at = first; at < end; ++at, channel = after(channel)) {
        const float* const image =
            copies_ ? scratch.data() + (at - first) * stride : x_ + at * size_;
        kernels().tap_plane({image, grid_.down(), offsets_.data(), taps(channel), step_, s_.depth(),
                             rows_, columns_, y_ + at * pixels_});
        finish(at, channel);
      }
    }
  }

  Grid grid_;
  std::vector<std::int64_t> offsets_;
  std::int64_t rows_;
  std::int64_t columns_;
  bool copies_;
};

// Small images whose size stays: masks leave out what lies beyond the borders.
class MaskedPlanes final : public Planes {
 public:
  MaskedPlanes(const ConvShape& shape, const float* x, const float* filters, std::int64_t step,
               float* y, const Epilogue& epilogue)
      : Planes(shape, x, filters, step, y, epilogue),
        masks_(static_cast<std::size_t>((size_ + 63) / 64 * 4 * shape.depth())) {
    for (std::int64_t tap = 0; tap < shape.depth(); ++tap) {
      const std::int64_t down = tap / shape.kernel[1] * shape.dilation[0] - shape.pads[0];
      const std::int64_t right = tap % shape.kernel[1] * shape.dilation[1] - shape.pads[1];
      offsets_.push_back(down * shape.width + right);
      const Range rows{std::max<std::int64_t>(0, -down),
                       std::min(shape.height, shape.height - down)};
      const Range columns{std::max<std::int64_t>(0, -right),
                          std::min(shape.width, shape.width - right)};
      for (std::int64_t row = rows.begin; row < rows.end; ++row)
        for (std::int64_t column = columns.begin; column < columns.end; ++column) {
          const std::int64_t at = row * shape.width + column;
          masks_[static_cast<std::size_t>(at / kPanel * shape.depth() + tap)] |=
              static_cast<std::uint16_t>(1 << at % kPanel);
        }
    }
  }

  static bool fits(const ConvShape& s) {
    return kernels().tap_masks != nullptr && s.stride[0] == 1 && s.stride[1] == 1 &&
           s.out(0) == s.height && s.out(1) == s.width && s.height * s.width <= kSmall;
  }

 private:
  void planes(Range part) const override {
    std::int64_t channel = part.begin % s_.channels;
    for (std::int64_t at = part.begin; at < part.end; ++at, channel = after(channel)) {
      kernels().tap_masks({x_ + at * size_, offsets_.data(), masks_.data(), taps(channel), step_,
                           s_.depth(), size_, y_ + at * pixels_});
      finish(at, channel);
    }
  }

  std::vector<std::uint16_t> masks_;
  std::vector<std::int64_t> offsets_;
};

}  // namespace

void depthwise(Threads& threads, const ConvShape& shape, const float* x, const float* filters,
               std::int64_t step, float* y, const Epilogue& epilogue) {
  if (MaskedPlanes::fits(shape))
    MaskedPlanes(shape, x, filters, step, y, epilogue).run(threads);
  else
    CopiedPlanes(shape, x, filters, step, y, epilogue).run(threads);
}

}  // namespace rx::cpu
