#include "cpu/gemm.h"

#include <algorithm>

#include "base/error.h"
#include "cpu/kernels.h"
#include "cpu/product.h"
#include "cpu/tasks.h"

namespace rx::cpu {
namespace {

constexpr std::int64_t kFewRows = 8;

// Few rows: no number of b is used twice, so blocks that fit caches would only cost time.
void few_rows(Threads& threads, std::int64_t m, const float* a, const PackedMatrix& b, float* y,
              const Epilogue& epilogue) {
  const std::int64_t k = b.k();
  const std::int64_t n = b.n();
  const Scratch strip(m == 1 ? 0 : m * k);
  if (m > 1) kernels().pack_strip(a, k, m, k, strip.data(), m);
  // memory is what one or two rows wait for
  const double cost = static_cast<double>((m + 3) * k * kPanel);
  run_ranges(threads, panels(n), cost, [&](Range part) {
    const Range columns{part.begin * kPanel, std::min(part.end * kPanel, n)};
    kernels().tile_row({m, columns.size(), k, m == 1 ? a : strip.data(), m,
                        b.data() + part.begin * kPanel * k, k * kPanel, y + columns.begin, n,
                        false});
    run_finish(epilogue, false, {0, m}, columns, n, y);
  });
}

Product product_of(std::int64_t m, const Left& left, const PackedMatrix& b, const Right& right,
                   float* y, const Epilogue& epilogue) {
  return {m, b.n(), b.k(), &left, &right, y, epilogue};
}

}  // namespace

PackedMatrix::PackedMatrix(std::int64_t k, std::int64_t n, const float* b, bool transposed)
    : k_(k), n_(n), data_(static_cast<std::size_t>(panels(n) * kPanel * k)) {
  for (std::int64_t first = 0; first < n; first += kPanel) {
    float* const to = data_.data() + first * k;
    const std::int64_t wide = std::min(kPanel, n - first);
    if (transposed) kernels().pack_strip(b + first * k, k, wide, k, to, kPanel);
    for (std::int64_t row = 0; row < k; ++row) {
      if (!transposed) std::copy_n(b + row * n + first, wide, to + row * kPanel);
      std::fill_n(to + row * kPanel + wide, kPanel - wide, 0.0f);
    }
  }
}

void gemm(Threads& threads, std::int64_t m, const float* a, const PackedMatrix& b, float* y,
          const Epilogue& epilogue) {
  if (m == 0 || b.n() == 0) return;
  if (m <= kFewRows) return few_rows(threads, m, a, b, y, epilogue);
  const RowsLeft left(a, b.k());
  const PackedRight right(b.data(), b.k() * kPanel);
  const Product product = product_of(m, left, b, right, y, epilogue);
  run_products(threads, {&product, 1});
}

void gemm(Threads& threads, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
          const float* b, bool transposed, float* y, const Epilogue& epilogue) {
  gemm(threads, m, a, PackedMatrix(k, n, b, transposed), y, epilogue);
}

void low_rank(Threads& threads, std::int64_t m, const float* a, const PackedMatrix& p,
              const PackedMatrix& q, float* y, const Epilogue& epilogue) {
  require(p.n() == q.k(), "the ranks ", p.n(), " and ", q.k(), " of a low-rank pair differ");
  const std::int64_t rank = p.n();
  const std::int64_t n = q.n();
  if (m == 0 || n == 0) return;
  // Blocks of rows whose middle fits the second cache; so many that each row of q that is read
  // serves many of them.
  constexpr std::int64_t kMost = 128;
  constexpr std::int64_t kLeast = 64;
  const auto count = static_cast<std::int64_t>(threads.count());
  const std::int64_t parts = std::max((m + kMost - 1) / kMost, std::min(2 * count, m / kLeast));
  if (m <= kFewRows || parts < count) {  // too few rows to share out: columns are, twice
    const Scratch middle(m * rank);
    gemm(threads, m, a, p, middle.data());
    return gemm(threads, m, middle.data(), q, y, epilogue);
  }
  const std::int64_t high = (m + kPanel - 1) / kPanel;
  const PackedRight first(p.data(), p.k() * kPanel);
  const PackedRight second(q.data(), rank * kPanel);
  run_tasks(threads, parts, [&](std::int64_t part) {
    const Range strips = part_of(high, part, parts);
    const Range rows{strips.begin * kPanel, std::min(strips.end * kPanel, m)};
    const Scratch middle(rows.size() * rank);
    const RowsLeft left(a + rows.begin * p.k(), p.k());
    run_product(product_of(rows.size(), left, p, first, middle.data(), {}));
    const RowsLeft between(middle.data(), rank);
    Epilogue last = epilogue;
    if (last.residual != nullptr) last.residual += rows.begin * n;
    run_product(product_of(rows.size(), between, q, second, y + rows.begin * n, last));
  });
}

}  // namespace rx::cpu
