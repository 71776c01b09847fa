// Constants that hold a weight in blocks: packed integers, scales, zero points.
#pragma once

#include <vector>

#include "cpu/quant.h"
#include "ops/operator.h"

namespace rx {

// A checked weight of `rows` by `columns`. Its scales are float32 here, whatever they are stored
// as; the integers are the constant's own memory.
class BlockWeight {
 public:
  // Attributes bits (2, 4, 8) and block_size (8 or more, a multiple of 8); inputs `data`, `scales`,
  // `zeros` of the node by index. The integers are (rows, blocks, bytes of a block), or
  // (rows, bytes of a row) where `flat`; `rows` below 0: as many as there are. Throws Error.
  BlockWeight(const NodeInfo& node, std::size_t data, std::size_t scales, std::size_t zeros,
              std::int64_t rows, std::int64_t columns, bool flat);

  // Valid while this lives.
  cpu::QuantView view() const;

  std::int64_t rows() const { return data_.shape[0]; }
  int bits() const { return bits_; }
  std::int64_t block() const { return block_; }
  std::int64_t blocks() const { return (columns_ + block_ - 1) / block_; }
  const Tensor& data() const { return data_; }
  const Tensor& scales() const { return scales_; }
  const Tensor& zeros() const { return zeros_; }  // may be absent

 private:
  void check_shapes(std::int64_t rows, bool flat) const;

  int bits_;
  std::int64_t block_;
  std::int64_t columns_;
  Tensor data_;
  Tensor scales_;
  Tensor zeros_;
  std::vector<float> converted_;  // scales that are stored as float16
};

}  // namespace rx
