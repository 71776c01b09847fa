#include "cpu/gemm.h"

#include <algorithm>
#include <vector>

#include "cpu/activation.h"

namespace rx::cpu {
namespace {

constexpr std::int64_t kPanel = 16;

std::int64_t panels(std::int64_t n) {
  return (n + kPanel - 1) / kPanel;
}

}  // namespace

PackedMatrix::PackedMatrix(std::int64_t k, std::int64_t n, const float* b, bool transposed)
    : k_(k), n_(n), data_(static_cast<std::size_t>(panels(n) * kPanel * k)) {
  float* to = data_.data();
  for (std::int64_t first = 0; first < n; first += kPanel)
    for (std::int64_t row = 0; row < k; ++row)
      for (std::int64_t column = first; column < first + kPanel; ++column)
        *to++ = column >= n ? 0.0f : transposed ? b[column * k + row] : b[row * n + column];
}

void gemm(Threads& threads, std::int64_t m, const float* a, const PackedMatrix& b, float* y,
          const Epilogue& epilogue) {
  const std::int64_t k = b.k();
  const std::int64_t n = b.n();
  threads.each(static_cast<std::size_t>(m), [&](std::size_t index) {
    const std::int64_t row = static_cast<std::int64_t>(index);
    for (std::int64_t column = 0; column < n; ++column) {
      const float* panel = b.data() + column / kPanel * kPanel * k + column % kPanel;
      float sum = 0;
      for (std::int64_t at = 0; at < k; ++at) sum += a[row * k + at] * panel[at * kPanel];
      y[row * n + column] = finish(sum, epilogue, column, row * n + column);
    }
  });
}

void gemm(Threads& threads, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
          const float* b, bool transposed, float* y, const Epilogue& epilogue) {
  gemm(threads, m, a, PackedMatrix(k, n, b, transposed), y, epilogue);
}

void low_rank(Threads& threads, std::int64_t m, const float* a, const PackedMatrix& p,
              const PackedMatrix& q, float* y, const Epilogue& epilogue) {
  require(p.n() == q.k(), "the ranks ", p.n(), " and ", q.k(), " of a low-rank pair differ");
  std::vector<float> middle(static_cast<std::size_t>(m * p.n()));
  gemm(threads, m, a, p, middle.data());
  gemm(threads, m, middle.data(), q, y, epilogue);
}

}  // namespace rx::cpu
