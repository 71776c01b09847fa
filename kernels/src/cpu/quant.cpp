#include "cpu/quant.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/error.h"
#include "cpu/product.h"
#include "cpu/quant_sides.h"

namespace rx::cpu {
namespace {

// Few rows: integers become numbers in registers, and no block is written anywhere.
void few_rows(Threads& threads, std::int64_t m, const float* a, const PackedQuant& weight, float* y,
              const Epilogue& epilogue) {
  const std::int64_t k = weight.k();
  const std::int64_t n = weight.n();
  const std::int64_t most = kernels().quant_rows;
  const Scratch strips(m == 1 ? 0 : m * k);
  for (std::int64_t row = 0; m > 1 && row < m; row += most) {
    const std::int64_t rows = std::min(most, m - row);
    kernels().pack_strip(a + row * k, k, rows, k, strips.data() + row * k, rows);
  }
  const double cost = static_cast<double>((m + 3) * k * kPanel);
  run_ranges(threads, panels(n), cost, [&](Range part) {
    // all rows for one panel, then the next: its integers are read from memory once
    const std::int64_t step = m <= most ? part.size() : 1;
    for (std::int64_t panel = part.begin; panel < part.end; panel += step) {
      const Range columns{panel * kPanel, std::min((panel + step) * kPanel, n)};
      for (std::int64_t row = 0; row < m; row += most)
        kernels().quant_row({weight.panels(panel), std::min(most, m - row), columns.size(), k,
                             m == 1 ? a : strips.data() + row * k, y + row * n + columns.begin, n});
      run_finish(epilogue, false, {0, m}, columns, n, y);
    }
  });
}

template <typename Index>
void gather(Threads& threads, const QuantView& weight, const Index* indices, std::int64_t count,
            float* y) {
  check(weight);
  std::atomic<bool> bad{false};
  run_ranges(threads, count, static_cast<double>(weight.columns), [&](Range part) {
    for (std::int64_t at = part.begin; at < part.end; ++at) {
      std::int64_t row = indices[at];
      if (row < 0) row += weight.rows;
      if (row < 0 || row >= weight.rows) {
        bad = true;
        continue;
      }
      for (std::int64_t block = 0; block < weight.blocks(); ++block) {
        const std::int64_t first = block * weight.block;
        const std::int64_t grid = row * weight.blocks() + block;
        kernels().restore_block({weight.bits, weight.data + grid * weight.block_bytes(),
                                 std::min(weight.block, weight.columns - first),
                                 static_cast<float>(weight.zero(row, block)), weight.scales[grid],
                                 y + at * weight.columns + first});
      }
    }
  });
  require(!bad, "an index lies outside the ", weight.rows, " rows of the weight");
}

// The words of one block of one row, to every 16th word of `to`.
void interleave(const std::uint8_t* from, std::int64_t bytes, std::uint32_t* to) {
  std::int64_t at = 0;
  for (; at + 4 <= bytes; at += 4) std::memcpy(to + at / 4 * kPanel, from + at, 4);
  if (at == bytes) return;
  std::uint32_t word = 0;
  std::memcpy(&word, from + at, static_cast<std::size_t>(bytes - at));
  to[at / 4 * kPanel] = word;
}

}  // namespace

void check(const QuantView& weight) {
  require(weight.bits == 2 || weight.bits == 4 || weight.bits == 8, "found ", weight.bits,
          " bits; expected 2, 4 or 8");
  require(weight.block >= 8 && weight.block % 8 == 0, "found blocks of ", weight.block,
          "; expected a multiple of 8");
  require(weight.rows >= 0 && weight.columns >= 0, "a weight has a negative size");
}

PackedQuant::PackedQuant(const QuantView& weight)
    : bits_(weight.bits), n_(weight.rows), k_(weight.columns), block_(weight.block) {
  check(weight);
  blocks_ = weight.blocks();
  words_ = (weight.block_bytes() + 3) / 4;
  const std::int64_t grid = cpu::panels(n_) * blocks_ * kPanel;
  data_ = Buffer<std::uint32_t>(static_cast<std::size_t>(grid * words_));
  scales_ = Buffer<float>(static_cast<std::size_t>(grid));
  if (weight.zeros != nullptr) zeros_ = Buffer<float>(static_cast<std::size_t>(grid));
  const std::int64_t bytes = weight.block_bytes();
  const auto middle = static_cast<float>(1 << (bits_ - 1));
  for (std::int64_t at = 0; at < grid; ++at) {
    const std::int64_t lane = at % kPanel;
    const std::int64_t row = at / (blocks_ * kPanel) * kPanel + lane;
    const std::int64_t block = at / kPanel % blocks_;
    const bool real = row < n_;  // else a column of zeros that fills the last panel up
    const std::int64_t source = real ? row * blocks_ + block : 0;
    scales_.data()[at] = real ? weight.scales[source] : 0.0f;
    if (weight.zeros != nullptr)
      zeros_.data()[at] = real ? static_cast<float>(weight.zero(row, block)) - middle : 0.0f;
    const std::uint8_t* const from = weight.data + source * bytes;
    std::uint32_t* const to = data_.data() + at / kPanel * words_ * kPanel;
    if (bits_ == 8) {
      auto* const signed_bytes = reinterpret_cast<std::uint8_t*>(to) + lane;
      for (std::int64_t i = 0; i < bytes; ++i) signed_bytes[i * kPanel] = from[i] ^ 0x80;
    } else {
      interleave(from, bytes, to + lane);
    }
  }
}

QuantPanels PackedQuant::panels(std::int64_t panel, std::int64_t k) const {
  const std::int64_t block = panel * blocks_ + k / block_;
  return {bits_,
          block_,
          words_,
          blocks_,
          data_.data() + block * words_ * kPanel,
          scales_.data() + block * kPanel,
          zeros_.data() == nullptr ? nullptr : zeros_.data() + block * kPanel};
}

void PackedQuant::restore(std::int64_t panel, Range k, float* to) const {
  kernels().restore(panels(panel, k.begin), k.begin % block_, k.size(), to);
}

void quant_gemm(Threads& threads, std::int64_t m, const float* a, const PackedQuant& weight,
                float* y, const Epilogue& epilogue) {
  if (m == 0 || weight.n() == 0) return;
  if (m <= 2 * kernels().quant_rows) return few_rows(threads, m, a, weight, y, epilogue);
  const RowsLeft left(a, weight.k());
  const QuantRight right(weight);
  Product product{m, weight.n(), weight.k(), &left, &right, y, epilogue};
  product.granule = weight.granule();
  run_products(threads, {&product, 1});
}

void quant_gather(Threads& threads, const QuantView& weight, const std::int64_t* indices,
                  std::int64_t count, float* y) {
  gather(threads, weight, indices, count, y);
}

void quant_gather(Threads& threads, const QuantView& weight, const std::int32_t* indices,
                  std::int64_t count, float* y) {
  gather(threads, weight, indices, count, y);
}

}  // namespace rx::cpu
