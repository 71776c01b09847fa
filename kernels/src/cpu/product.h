// The loops around the tiles: blocks of a product that fit the caches, shared out to threads.
//
// Source of the scheme: K. Goto & R. van de Geijn, ACM TOMS 34(3), 2008.
#pragma once

#include <cstdint>

#include "base/span.h"
#include "base/threads.h"
#include "cpu/epilogue.h"
#include "cpu/kernels.h"
#include "cpu/tasks.h"

namespace rx::cpu {

// Depth of a block, unless the operands ask for another one.
constexpr std::int64_t kDepth = 256;

// Gives the left-hand side in strips. `scratch` holds a strip, and 16 numbers more.
class Left {
 public:
  struct Strip {
    const float* data;
    std::int64_t step;  // numbers in a row of the strip
  };
  virtual ~Left() = default;
  // Rows [row, row + rows) of the product, depths [k.begin, k.end); row is a multiple of 16.
  virtual Strip strip(std::int64_t row, std::int64_t rows, Range k, float* scratch) const = 0;
};

// Gives the right-hand side in panels.
class Right {
 public:
  struct Block {
    const float* data;
    std::int64_t panel;  // numbers from a panel to the next one
  };
  virtual ~Right() = default;
  // Whether block() needs scratch memory: 16 numbers more than its panels have.
  virtual bool computed() const = 0;
  virtual Block block(Range panels, Range k, float* scratch) const = 0;
};

// y (m, n) = epilogue(left (m, k) * right (k, n)).
struct Product {
  std::int64_t m;
  std::int64_t n;
  std::int64_t k;
  const Left* left;
  const Right* right;
  float* y;  // rows of n numbers
  Epilogue epilogue;
  bool bias_by_row = false;
  std::int64_t granule = 1;  // blocks begin at depths that are multiples of this
};

// The same epilogue for what begins at a later channel (of the bias) and number (of the residual).
inline Epilogue moved(Epilogue epilogue, std::int64_t channel, std::int64_t at) {
  if (epilogue.bias != nullptr) epilogue.bias += channel;
  if (epilogue.residual != nullptr) epilogue.residual += at;
  return epilogue;
}

// Products of equal sizes, one after another or at once.
void run_products(Threads& threads, Span<const Product> products);

// One of them, on this thread.
void run_product(const Product& product);

// The epilogue of rows and columns of y (rows of n numbers).
void run_finish(const Epilogue& epilogue, bool bias_by_row, Range rows, Range columns,
                std::int64_t n, float* y);

// Rows of a matrix (m, k).
class RowsLeft final : public Left {
 public:
  RowsLeft(const float* a, std::int64_t k) : a_(a), k_(k) {}
  Strip strip(std::int64_t row, std::int64_t rows, Range k, float* scratch) const override {
    kernels().pack_strip(a_ + row * k_ + k.begin, k_, rows, k.size(), scratch, kPanel);
    return {scratch, kPanel};
  }

 private:
  const float* a_;
  std::int64_t k_;
};

// Panels that were packed before.
class PackedRight final : public Right {
 public:
  // `stride`: numbers from a panel to the next one.
  PackedRight(const float* panels, std::int64_t stride) : panels_(panels), stride_(stride) {}
  bool computed() const override { return false; }
  Block block(Range panels, Range k, float*) const override {
    return {panels_ + panels.begin * stride_ + k.begin * kPanel, stride_};
  }

 private:
  const float* panels_;
  std::int64_t stride_;
};

}  // namespace rx::cpu
