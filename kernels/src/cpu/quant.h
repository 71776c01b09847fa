// Weights of 2, 4 or 8 bits in blocks: products and look-ups. A weight is (integer - zero) * scale.
#pragma once

#include <cstdint>

#include "base/threads.h"
#include "cpu/buffer.h"
#include "cpu/epilogue.h"
#include "cpu/kernels.h"
#include "cpu/tasks.h"

namespace rx::cpu {

// Weights as com.microsoft.MatMulNBits and GatherBlockQuantized store them; not owned. The integer
// i of a block lies in byte i * bits / 8, the first one in the lowest bits.
struct QuantView {
  int bits = 4;              // 2, 4, 8
  std::int64_t rows = 0;     // N, or entries of an embedding
  std::int64_t columns = 0;  // K
  std::int64_t block = 32;   // neighbours along K that share a scale: >= 8, a multiple of 8
  const std::uint8_t* data = nullptr;   // (rows, blocks, block * bits / 8)
  const float* scales = nullptr;        // (rows, blocks)
  const std::uint8_t* zeros = nullptr;  // (rows, ceil(blocks * bits / 8)); null: 2^(bits - 1)

  std::int64_t blocks() const { return (columns + block - 1) / block; }
  std::int64_t block_bytes() const { return block * bits / 8; }
  std::int64_t zero_bytes() const { return (blocks() * bits + 7) / 8; }
  int zero(std::int64_t row, std::int64_t at) const {
    if (zeros == nullptr) return 1 << (bits - 1);
    const std::int64_t bit = at * bits;
    return zeros[row * zero_bytes() + bit / 8] >> (bit % 8) & ((1 << bits) - 1);
  }
};

// Refuses bits and blocks that are not as stated above.
void check(const QuantView& weight);

// Weights (n, k) in the order that products read them: they stay integers of as many bits; rows are
// rounded up to 16 and blocks to 32 bits; a scale has 4 bytes and so has a zero point that is not
// the middle. Integers of 2 and 4 bits keep their places in words of 32 bits, one word of each of
// 16 rows after another; those of 8 bits become signed, one byte of each of 16 rows after another.
class PackedQuant {
 public:
  // The view is not kept. Refuses what check() refuses; throws std::bad_alloc.
  explicit PackedQuant(const QuantView& weight);

  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }
  // A depth that is a multiple of this one begins a word.
  std::int64_t granule() const { return block_ <= 256 || block_ % 16 != 0 ? block_ : 16; }
  // Panels from `panel` on, 16 rows of the weight each, from the block on that has depth `k`.
  QuantPanels panels(std::int64_t panel, std::int64_t k = 0) const;
  // Depths [k.begin, k.end) of a panel, as floats (size of k, 16); k.begin as granule() says.
  void restore(std::int64_t panel, Range k, float* to) const;

 private:
  int bits_;
  std::int64_t n_;
  std::int64_t k_;
  std::int64_t block_;
  std::int64_t blocks_;
  std::int64_t words_;          // 32 bits each, of a block of one row
  Buffer<std::uint32_t> data_;  // (n / 16, blocks, words, 16), or (n / 16, blocks, block, 16) bytes
  Buffer<float> scales_;        // (n / 16, blocks, 16)
  Buffer<float> zeros_;         // the same, less the middle; or none
};

// y (m, n) = epilogue(a (m, k) * weight^T (k, n)), as gemm() of the restored weights.
void quant_gemm(Threads& threads, std::int64_t m, const float* a, const PackedQuant& weight,
                float* y, const Epilogue& epilogue = {});

// y (count, columns): the rows `indices` of the weight, restored; negative ones count from the end.
// Each entry is (integer - zero) * scale, rounded once. Refuses an index out of range (y is then
// not specified).
void quant_gather(Threads& threads, const QuantView& weight, const std::int64_t* indices,
                  std::int64_t count, float* y);
void quant_gather(Threads& threads, const QuantView& weight, const std::int32_t* indices,
                  std::int64_t count, float* y);

}  // namespace rx::cpu
