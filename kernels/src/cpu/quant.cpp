#include "cpu/quant.h"

#include <atomic>
#include <cstring>

#include "base/error.h"
#include "cpu/activation.h"

namespace rx::cpu {
namespace {

constexpr std::int64_t kPanel = 16;

std::int64_t panels(std::int64_t n) {
  return (n + kPanel - 1) / kPanel;
}

template <typename Index>
void gather(Threads& threads, const QuantView& weight, const Index* indices, std::int64_t count,
            float* y) {
  check(weight);
  std::atomic<bool> bad{false};
  threads.each(static_cast<std::size_t>(count), [&](std::size_t at) {
    std::int64_t row = indices[at];
    if (row < 0) row += weight.rows;
    if (row < 0 || row >= weight.rows) {
      bad = true;
      return;
    }
    for (std::int64_t column = 0; column < weight.columns; ++column) {
      const std::int64_t block = row * weight.blocks() + column / weight.block;
      const std::int64_t bit = column % weight.block * weight.bits;
      const int value = weight.data[block * weight.block_bytes() + bit / 8] >> (bit % 8) &
                        ((1 << weight.bits) - 1);
      const int step = value - weight.zero(row, column / weight.block);
      y[static_cast<std::int64_t>(at) * weight.columns + column] =
          static_cast<float>(step) * weight.scales[block];
    }
  });
  require(!bad, "an index lies outside the ", weight.rows, " rows of the weight");
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
  const std::int64_t grid = panels(n_) * blocks() * kPanel;
  data_ = Buffer<std::uint32_t>(static_cast<std::size_t>(grid * words()));
  scales_ = Buffer<float>(static_cast<std::size_t>(grid));
  if (weight.zeros != nullptr) zeros_ = Buffer<float>(static_cast<std::size_t>(grid));
  for (std::int64_t at = 0; at < grid; ++at) {
    const std::int64_t row = at / (blocks() * kPanel) * kPanel + at % kPanel;
    const std::int64_t block = at / kPanel % blocks();
    scales_.data()[at] = row < n_ ? weight.scales[row * blocks() + block] : 0.0f;
    if (weight.zeros != nullptr)
      zeros_.data()[at] = row < n_ ? static_cast<float>(weight.zero(row, block)) : 0.0f;
    std::vector<std::uint32_t> words(static_cast<std::size_t>(this->words()));
    if (row < n_)
      std::memcpy(words.data(), weight.data + (row * blocks() + block) * weight.block_bytes(),
                  static_cast<std::size_t>(weight.block_bytes()));
    for (std::int64_t word = 0; word < this->words(); ++word)
      data_.data()[(at / kPanel * this->words() + word) * kPanel + at % kPanel] =
          words[static_cast<std::size_t>(word)];
  }
}

void quant_gemm(Threads& threads, std::int64_t m, const float* a, const PackedQuant& weight,
                float* y, const Epilogue& epilogue) {
  const std::int64_t k = weight.k();
  const std::int64_t n = weight.n();
  const int each = 32 / weight.bits();
  threads.each(static_cast<std::size_t>(m), [&](std::size_t index) {
    const std::int64_t row = static_cast<std::int64_t>(index);
    for (std::int64_t column = 0; column < n; ++column) {
      float sum = 0;
      for (std::int64_t at = 0; at < k; ++at) {
        const std::int64_t block = column / kPanel * weight.blocks() + at / weight.block();
        const std::int64_t in = at % weight.block();
        const std::uint32_t word =
            weight.data()[(block * weight.words() + in / each) * kPanel + column % kPanel];
        const float value =
            static_cast<float>(word >> (in % each * weight.bits()) & ((1u << weight.bits()) - 1));
        const std::int64_t grid = block * kPanel + column % kPanel;
        const float zero = weight.zeros() != nullptr ? weight.zeros()[grid]
                                                     : static_cast<float>(1 << (weight.bits() - 1));
        sum += a[row * k + at] * ((value - zero) * weight.scales()[grid]);
      }
      y[row * n + column] = finish(sum, epilogue, column, row * n + column);
    }
  });
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
