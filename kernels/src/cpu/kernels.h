// The inner loops, compiled once for each instruction set (kernels_*.cpp).
//
// Two layouts: a strip is `k` rows of up to 16 numbers of the left-hand side, one a row of the
// product; a panel is `k` rows of 16 numbers of the right-hand side, one a column of the product.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace rx::cpu {

constexpr std::int64_t kPanel = 16;

constexpr std::int64_t panels(std::int64_t n) {
  return (n + kPanel - 1) / kPanel;
}

// y (rows, columns) = or += strip^T * panels.
struct TileRow {
  std::int64_t rows;     // 1 to 16
  std::int64_t columns;  // of y; the last panel may be wider
  std::int64_t k;
  const float* a;
  std::int64_t a_step;  // numbers in a row of the strip, >= rows
  const float* b;
  std::int64_t b_panel;  // numbers from a panel to the next one
  float* y;
  std::int64_t y_row;  // numbers from a row of y to the next one
  bool add;
};

// Panels of a PackedQuant, from one of its blocks on.
struct QuantPanels {
  int bits;
  std::int64_t block;   // neighbours that share a scale
  std::int64_t words;   // of 32 bits, of a block of one column
  std::int64_t blocks;  // of the whole weight: from a panel to the next one
  const std::uint32_t* data;
  const float* scales;
  const float* zeros;  // less the middle; null: all 0
};

// y (rows, columns) = strip^T * panels, the panels in integers.
struct QuantRow {
  QuantPanels b;
  std::int64_t rows;  // 1 to kernels().quant_rows
  std::int64_t columns;
  std::int64_t k;
  const float* a;  // a row has `rows` numbers
  float* y;
  std::int64_t y_row;
};

// What follows a product; bias and residual may be null.
struct Finish {
  int activation;  // of enum Activation
  float low;
  float high;
  std::int64_t rows;
  std::int64_t columns;
  const float* bias;
  bool bias_by_row;
  const float* residual;  // rows lie as those of y
  float* y;
  std::int64_t y_row;
};

// Pixels of neighbouring outputs, that lie one after another in the image too.
struct Run {
  std::int64_t to;    // place in the panel
  std::int64_t from;  // place in the image
  std::int64_t size;
};

// A panel (k, 16) of an image: the number at (row, run.to + i) is image[offsets[row] + run.from +
// i]. Numbers that belong to no run are not specified; they are finite only if the image is.
struct PixelPanel {
  const float* image;
  const float* end;
  const std::int64_t* offsets;
  std::int64_t k;
  const Run* runs;
  std::int64_t run_count;
  float* to;
};

// A convolution with one input channel: y[row][i] = sum of taps[t] * x[offsets[t] + row * down +
// i]. Where `columns` is less than 16, numbers of x are read that lie up to 15 places further.
struct TapPlane {
  const float* x;
  std::int64_t down;
  const std::int64_t* offsets;
  const float* taps;
  std::int64_t step;
  std::int64_t count;
  std::int64_t rows;
  std::int64_t columns;
  float* y;
};

// The same, every output having its place in the image (stride 1, and a margin that keeps the
// size): y[i] = sum of taps[t * step] * x[i + offsets[t]] over the taps whose bit i % 16 of masks[i
// / 16 * count + t] is set. Masks are there for a multiple of 64 outputs.
struct TapMasks {
  const float* x;
  const std::int64_t* offsets;
  const std::uint16_t* masks;
  const float* taps;
  std::int64_t step;
  std::int64_t count;
  std::int64_t size;
  float* y;
};

// A copy of an image with a margin of zeros. Numbers of `from` are read up to `end`; `to` is
// written up to 16 numbers beyond the copy.
struct Margin {
  const float* from;
  const float* end;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t pads[4];  // top, left, bottom, right
  float* to;
};

// Integers of a few bits, one after another from the lowest bits on: y[i] = (q[i] - zero) * scale.
struct QuantBlock {
  int bits;
  const std::uint8_t* data;
  std::int64_t count;
  float zero;
  float scale;
  float* y;
};

struct Kernels {
  std::int64_t quant_rows;  // most rows of a QuantRow
  void (*tile_row)(const TileRow&);
  void (*quant_row)(const QuantRow&);
  // depths [skip, skip + k) of one panel, `skip` in its first block and at the start of a word
  void (*restore)(const QuantPanels&, std::int64_t skip, std::int64_t k, float* to);
  void (*finish)(const Finish&);
  // strip (k, step) of rows of a; `rows` <= step
  void (*pack_strip)(const float* a, std::int64_t a_row, std::int64_t rows, std::int64_t k,
                     float* to, std::int64_t step);
  void (*pack_pixels)(const PixelPanel&);
  void (*every_second)(const float* from, float* to, std::int64_t count);  // to[i] = from[2 * i]
  void (*add_margin)(const Margin&);
  void (*tap_plane)(const TapPlane&);
  void (*tap_masks)(const TapMasks&);  // null where the instruction set has no masks
  void (*restore_block)(const QuantBlock&);
  void (*to_float)(const std::uint16_t* from, float* to, std::int64_t count);
  void (*to_half)(const float* from, std::uint16_t* to, std::int64_t count);
};

// Those of isa().
const Kernels& kernels();

extern const Kernels kBaseline;
extern const Kernels kAvx2;
extern const Kernels kAvx512;

}  // namespace rx::cpu
