// Products of float32 matrices, row-major. Sums are float32; each entry is within
// gamma(k + 2) * sum|a||b| of the exact one, gamma(n) = n u / (1 - n u), u = 2^-24, before the
// activation (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
#pragma once

#include <cstdint>

#include "base/threads.h"
#include "cpu/buffer.h"
#include "cpu/epilogue.h"

namespace rx::cpu {

// A right-hand side (k, n) in the order that the product reads it, packed once for a constant.
// Memory: 4 bytes an entry, columns rounded up to 16.
class PackedMatrix {
 public:
  // `b` is (k, n), or (n, k) if `transposed`. It is not kept. Throws std::bad_alloc.
  PackedMatrix(std::int64_t k, std::int64_t n, const float* b, bool transposed = false);

  std::int64_t k() const { return k_; }
  std::int64_t n() const { return n_; }
  const float* data() const { return data_.data(); }

 private:
  std::int64_t k_;
  std::int64_t n_;
  Buffer<float> data_;
};

// y (m, n) = epilogue(a (m, k) * b (k, n)). No operand overlaps y, but for the residual.
// With k = 0 the product is 0.
void gemm(Threads& threads, std::int64_t m, const float* a, const PackedMatrix& b, float* y,
          const Epilogue& epilogue = {});

// The same for a right-hand side that is no constant: (k, n), or (n, k) if `transposed`.
void gemm(Threads& threads, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
          const float* b, bool transposed, float* y, const Epilogue& epilogue = {});

// y (m, n) = epilogue((a (m, k) * p (k, r)) * q (r, n)): row blocks, so that the middle stays in
// the cache. The bound of the middle, times |q|, adds to that of a product.
void low_rank(Threads& threads, std::int64_t m, const float* a, const PackedMatrix& p,
              const PackedMatrix& q, float* y, const Epilogue& epilogue = {});

}  // namespace rx::cpu
