#include "cpu/product.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace rx::cpu {
namespace {

// Bytes of a block of the right-hand side: half of the second cache, which holds it while strips
// of the left-hand side pass by.
std::int64_t block_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const std::int64_t bytes =
      std::clamp<std::int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE) / 2, 128 << 10, 1 << 20);
  return bytes;
#else
  return 128 << 10;
#endif
}

std::int64_t depth_of(const Product& p) {
  return std::clamp<std::int64_t>(p.k, 1, std::max(p.granule, kDepth / p.granule * p.granule));
}

// Panels of a block.
std::int64_t width_of(std::int64_t depth) {
  const std::int64_t panel = depth * kPanel * static_cast<std::int64_t>(sizeof(float));
  return std::max<std::int64_t>(1, block_bytes() / panel);
}

void clear(const Product& p, Range rows, Range columns) {
  for (std::int64_t row = rows.begin; row < rows.end; ++row)
    std::memset(p.y + row * p.n + columns.begin, 0,
                static_cast<std::size_t>(columns.size()) * sizeof(float));
}

// Some rows (from a multiple of 16 on) and panels of a product.
class Piece {
 public:
  Piece(const Product& product, Range rows, Range panels)
      : p_(product),
        rows_(rows),
        panels_(panels),
        depth_(depth_of(product)),
        width_(std::min(width_of(depth_), panels.size())),
        scratch_((depth_ * (1 + (p_.right->computed() ? width_ : 0)) + 2) * kPanel) {}

  void run() const {
    for (std::int64_t at = panels_.begin; at < panels_.end; at += width_)
      block({at, std::min(at + width_, panels_.end)});
  }

 private:
  void block(Range panels) const {
    const Range columns{panels.begin * kPanel, std::min(panels.end * kPanel, p_.n)};
    if (p_.k == 0) {
      clear(p_, rows_, columns);
      run_finish(p_.epilogue, p_.bias_by_row, rows_, columns, p_.n, p_.y);
    }
    for (std::int64_t at = 0; at < p_.k; at += depth_)
      strips(panels, columns, {at, std::min(at + depth_, p_.k)});
  }

  void strips(Range panels, Range columns, Range k) const {
    float* const left = scratch_.data();
    const Right::Block b = p_.right->block(panels, k, left + (depth_ + 1) * kPanel);
    for (std::int64_t row = rows_.begin; row < rows_.end; row += kPanel) {
      const Range rows{row, std::min(row + kPanel, rows_.end)};
      const Left::Strip a = p_.left->strip(row, rows.size(), k, left);
      kernels().tile_row({rows.size(), columns.size(), k.size(), a.data, a.step, b.data, b.panel,
                          p_.y + row * p_.n + columns.begin, p_.n, k.begin != 0});
      if (k.end == p_.k) run_finish(p_.epilogue, p_.bias_by_row, rows, columns, p_.n, p_.y);
    }
  }

  const Product& p_;
  Range rows_;
  Range panels_;
  std::int64_t depth_;
  std::int64_t width_;
  Scratch scratch_;
};

// How products are cut: columns first, as pieces that share columns compute the same panels, which
// costs more than packing the same strips; but no columns so narrow that strips are packed for
// little.
struct Cut {
  std::int64_t rows;
  std::int64_t columns;
};

Cut cut_of(const Threads& threads, const Product& p, std::int64_t count) {
  const std::int64_t wide = panels(p.n);
  const std::int64_t high = (p.m + kPanel - 1) / kPanel;
  const double cost = static_cast<double>(p.k) * kPanel * kPanel;
  const std::int64_t all = pieces(threads, count * wide * high, cost);
  const std::int64_t each = std::max<std::int64_t>(1, (all + count - 1) / count);
  const std::int64_t narrow = p.right->computed() ? 3 : 4;
  const std::int64_t columns =
      std::clamp<std::int64_t>(each, 1, std::max<std::int64_t>(1, wide / narrow));
  return {std::clamp<std::int64_t>((each + columns - 1) / columns, 1, high), columns};
}

// Pieces that share columns would compute the same panels: they are computed once before, unless
// that takes a lot of memory.
constexpr std::int64_t kShared = 1 << 22;  // numbers

bool shares(const Cut& cut, Span<const Product> products) {
  const Product& p = products[0];
  return cut.rows > 1 && products.size() == 1 && p.right->computed() &&
         panels(p.n) * kPanel * p.k <= kShared;
}

void run_pieces(Threads& threads, const Cut& cut, Span<const Product> products) {
  const auto count = static_cast<std::int64_t>(products.size());
  run_tasks(threads, count * cut.rows * cut.columns, [&](std::int64_t task) {
    const Product& p = products[static_cast<std::size_t>(task / (cut.rows * cut.columns))];
    const Range strips =
        part_of((p.m + kPanel - 1) / kPanel, task / cut.columns % cut.rows, cut.rows);
    Piece(p, {strips.begin * kPanel, std::min(strips.end * kPanel, p.m)},
          part_of(panels(p.n), task % cut.columns, cut.columns))
        .run();
  });
}

}  // namespace

void run_finish(const Epilogue& e, bool bias_by_row, Range rows, Range columns, std::int64_t n,
                float* y) {
  if (e.activation == Activation::kNone && e.bias == nullptr && e.residual == nullptr) return;
  const std::int64_t first = rows.begin * n + columns.begin;
  kernels().finish(
      {static_cast<int>(e.activation), e.low, e.high, rows.size(), columns.size(),
       e.bias == nullptr ? nullptr : e.bias + (bias_by_row ? rows.begin : columns.begin),
       bias_by_row, e.residual == nullptr ? nullptr : e.residual + first, y + first, n});
}

void run_product(const Product& product) {
  if (product.m == 0 || product.n == 0) return;
  Piece(product, {0, product.m}, {0, panels(product.n)}).run();
}

void run_products(Threads& threads, Span<const Product> products) {
  if (products.empty() || products[0].m == 0 || products[0].n == 0) return;
  const auto count = static_cast<std::int64_t>(products.size());
  const Cut cut = cut_of(threads, products[0], count);
  if (!shares(cut, products)) return run_pieces(threads, cut, products);
  Product shared = products[0];
  const std::int64_t wide = panels(shared.n);
  const Scratch scratch(wide * kPanel * shared.k + kPanel * (wide + 1));
  const std::int64_t stride = kPanel * (shared.k + 1);  // a panel may be written beyond its end
  run_ranges(threads, wide, static_cast<double>(kPanel * shared.k), [&](Range part) {
    for (std::int64_t panel = part.begin; panel < part.end; ++panel)
      shared.right->block({panel, panel + 1}, {0, shared.k}, scratch.data() + panel * stride);
  });
  const PackedRight right(scratch.data(), stride);
  shared.right = &right;
  run_pieces(threads, cut, {&shared, 1});
}

}  // namespace rx::cpu
