// Where convolutions read pixels: in the image itself, or in a copy with its margin, whose rows are
// cut into phases (columns 0, s, 2s, ... of a stride s, then 1, s + 1, ...), so that neighbouring
// outputs always read neighbouring numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/conv.h"
#include "cpu/product.h"

namespace rx::cpu {

class Grid {
 public:
  explicit Grid(const ConvShape& shape);

  bool copies() const { return copies_; }
  std::int64_t plane() const { return plane_; }  // numbers of a channel
  std::int64_t down() const { return down_; }    // from the first pixel of an output to one below
  // From the first pixel of an output to what the entries of a filter with `channels` channels
  // meet.
  std::vector<std::int64_t> offsets(std::int64_t channels) const;
  // Copies one channel; rows and columns that no output reads may be left out. Numbers of the image
  // are read up to `end`, those of the copy's plane() are written.
  void copy(const float* from, const float* end, float* to) const;

 private:
  void copy_row(const float* from, float* to) const;

  ConvShape shape_;
  bool copies_;
  std::int64_t phase_;  // numbers of a phase of a row
  std::int64_t row_;
  std::int64_t plane_;
  std::int64_t down_;
  std::vector<std::int64_t> phases_;  // by column modulo the stride: place in the row, or -1
  std::vector<bool> rows_;            // by row modulo the stride: read at all
};

// The pixels of an image as the right-hand side of a product, (depth, outputs); no matrix of them
// is written but for the block in use (implicit GEMM: S. Chetlur et al., cuDNN, arXiv:1410.0759,
// 2014).
class PixelsRight final : public Right {
 public:
  // `offsets` outlives this; numbers from `end` on are not read.
  PixelsRight(const ConvShape& shape, const Grid& grid, const std::vector<std::int64_t>& offsets,
              const float* image, const float* end)
      : width_(shape.out(1)),
        pixels_(shape.pixels()),
        down_(grid.down()),
        offsets_(offsets.data()),
        image_(image),
        end_(end) {}

  bool computed() const override { return true; }
  Block block(Range panels, Range k, float* scratch) const override;

 private:
  std::int64_t runs(std::int64_t panel, Run* to) const;

  std::int64_t width_;
  std::int64_t pixels_;
  std::int64_t down_;
  const std::int64_t* offsets_;
  const float* image_;
  const float* end_;
};

}  // namespace rx::cpu
