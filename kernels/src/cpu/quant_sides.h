// Weights in integers as either side of a product: restored a block at a time.
#pragma once

#include "cpu/product.h"
#include "cpu/quant.h"

namespace rx::cpu {

class QuantLeft final : public Left {
 public:
  explicit QuantLeft(const PackedQuant& weight) : weight_(weight) {}
  Strip strip(std::int64_t row, std::int64_t, Range k, float* scratch) const override {
    weight_.restore(row / kPanel, k, scratch);
    return {scratch, kPanel};
  }

 private:
  const PackedQuant& weight_;
};

class QuantRight final : public Right {
 public:
  explicit QuantRight(const PackedQuant& weight) : weight_(weight) {}
  bool computed() const override { return true; }
  Block block(Range panels, Range k, float* scratch) const override {
    for (std::int64_t panel = panels.begin; panel < panels.end; ++panel)
      weight_.restore(panel, k, scratch + (panel - panels.begin) * k.size() * kPanel);
    return {scratch, k.size() * kPanel};
  }

 private:
  const PackedQuant& weight_;
};

}  // namespace rx::cpu
