// Weights of 2, 4 or 8 bits in blocks: products and look-ups. A weight is (integer - zero) * scale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/threads.h"
#include "cpu/buffer.h"
#include "cpu/epilogue.h"

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
// the middle.
class PackedQuant {
 public:
  // The view is not kept. Refuses what check() refuses; throws std::bad_alloc.
  explicit PackedQuant(const QuantView& weight);

  int bits() const { return bits_; }
  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }
  std::int64_t block() const { return block_; }
  std::int64_t blocks() const { return (k_ + block_ - 1) / block_; }
  std::int64_t words() const { return (block_ * bits_ + 31) / 32; }  // 32 bits each, of a block
  const std::uint32_t* data() const { return data_.data(); }         // (n / 16, blocks, words, 16)
  const float* scales() const { return scales_.data(); }             // (n / 16, blocks, 16)
  const float* zeros() const { return zeros_.data(); }  // the same, or null: the middle

 private:
  int bits_;
  std::int64_t n_;
  std::int64_t k_;
  std::int64_t block_;
  Buffer<std::uint32_t> data_;
  Buffer<float> scales_;
  Buffer<float> zeros_;
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
