// Products of float matrices, and low-rank pairs.
#include <cstring>
#include <tuple>

#include "cpu/gemm.h"
#include "cpu_reference.h"

namespace rx::test {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

struct Operands {
  std::int64_t m, n, k;
  Floats a, b, bias, residual, y;
  Operands(std::int64_t m_, std::int64_t n_, std::int64_t k_, Random& random)
      : m(m_), n(n_), k(k_) {
    a = random.reals(m * k);
    b = random.reals(k * n);
    bias = random.reals(n);
    residual = random.reals(m * n);
    // NaN where nothing is written, and beyond the end
    y.assign(static_cast<std::size_t>(m * n + 1), kNan);
  }
  void compare(Comparison& comparison, const cpu::Epilogue& e) const {
    for (std::int64_t row = 0; row < m; ++row)
      for (std::int64_t column = 0; column < n; ++column) {
        Sum sum;
        for (std::int64_t at = 0; at < k; ++at)
          sum.add(a[static_cast<std::size_t>(row * k + at)],
                  b[static_cast<std::size_t>(at * n + column)]);
        const std::int64_t at = row * n + column;
        comparison.add(y[static_cast<std::size_t>(at)], sum, k, e, column, at);
      }
    CHECK(std::isnan(y.back()));
  }
};

RX_TEST(products_of_odd_sizes) {
  each_isa([](const std::string& isa) {
    Comparison comparison("gemm " + isa);
    Random random(1);
    Crew crew(3);
    OneThread alone;
    int at = 0;
    for (const std::int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 33, 129})
      for (const std::int64_t n : {1, 7, 16, 17, 33, 48, 65, 129})
        for (const std::int64_t k : {1, 3, 33, 300}) {
          Operands o(m, n, k, random);
          const cpu::Epilogue e = epilogue_of(++at, o.bias, o.residual);
          Threads& threads = at % 3 == 0 ? static_cast<Threads&>(crew) : alone;
          cpu::gemm(threads, m, o.a.data(), cpu::PackedMatrix(k, n, o.b.data()), o.y.data(), e);
          o.compare(comparison, e);
        }
  });
}

RX_TEST(products_that_are_cut_into_blocks_and_pieces) {
  each_isa([](const std::string& isa) {
    Comparison comparison("large gemm " + isa);
    Random random(2);
    for (const auto& [m, n, k] : {std::tuple{70, 1100, 600}, {3, 2000, 700}, {600, 40, 520}}) {
      Operands o(m, n, k, random);
      Floats turned(o.b.size());
      for (std::int64_t i = 0; i < k; ++i)
        for (std::int64_t j = 0; j < n; ++j)
          turned[static_cast<std::size_t>(j * k + i)] = o.b[static_cast<std::size_t>(i * n + j)];
      Crew crew(4);
      cpu::gemm(crew, m, n, k, o.a.data(), turned.data(), true, o.y.data());
      o.compare(comparison, {});
    }
  });
}

RX_TEST(every_activation) {
  each_isa([](const std::string& isa) {
    Comparison comparison("activations " + isa);
    OneThread alone;
    // one column of ones: y = act(a + bias), from far below to far above
    const std::int64_t m = 4003;
    Floats a, y(m);
    for (std::int64_t i = 0; i < m; ++i)
      a.push_back(static_cast<float>(i - m / 2) * (i % 2 ? 0.0075f : 0.1f));
    const float one = 1.0f;
    const cpu::PackedMatrix b(1, 1, &one);
    for (const cpu::Activation activation : kActivations) {
      cpu::Epilogue e;
      e.activation = activation;
      e.low = -1;
      e.high = 6;
      cpu::gemm(alone, m, a.data(), b, y.data(), e);
      for (std::int64_t i = 0; i < m; ++i) {  // the sum is exact: only the activation errs
        Sum sum;
        sum.add(a[static_cast<std::size_t>(i)], 1);
        comparison.add(y[static_cast<std::size_t>(i)], sum, kExact, e, 0, i);
      }
    }
  });
}

RX_TEST(nan_and_infinity_go_through) {
  each_isa([](const std::string&) {
    OneThread alone;
    const float one = 1.0f;
    const cpu::PackedMatrix b(1, 1, &one);
    for (const cpu::Activation activation : kActivations) {
      Floats a(40, 1.0f);  // whole vectors, and a rest
      a[3] = a[38] = kNan;
      a[5] = a[39] = kInf;
      a[6] = -kInf;
      a[7] = 3e38f;
      a[8] = -3e38f;
      Floats y(40);
      cpu::Epilogue e;
      e.activation = activation;
      cpu::gemm(alone, 40, a.data(), b, y.data(), e);
      CHECK(std::isnan(y[3]) && std::isnan(y[38]));
      if (activation != cpu::Activation::kClip) CHECK(y[5] == kInf && y[39] == kInf);
      CHECK(y[7] == 3e38f);
      const bool smooth = activation >= cpu::Activation::kGelu;
      if (smooth) {
        CHECK(std::isnan(y[6]));  // -infinity times 0
        CHECK(y[8] == 0.0f);
      } else if (activation == cpu::Activation::kRelu) {
        CHECK(y[6] == 0.0f && y[8] == 0.0f);
      }
      CHECK(!std::isnan(y[4]) && !std::isnan(y[9]));
    }
    // a NaN in one row of a, or one column of b, is in that row or column alone
    Random random(3);
    Operands o(19, 37, 50, random);
    o.a[4 * 50 + 7] = kNan;
    o.b[9 * 37 + 36] = kInf;
    cpu::gemm(alone, 19, o.a.data(), cpu::PackedMatrix(50, 37, o.b.data()), o.y.data());
    for (std::int64_t row = 0; row < 19; ++row)
      for (std::int64_t column = 0; column < 37; ++column) {
        const float y = o.y[static_cast<std::size_t>(row * 37 + column)];
        CHECK(std::isnan(y) == (row == 4));
        CHECK((row == 4) || std::isinf(y) == (column == 36));
      }
  });
}

RX_TEST(empty_operands) {
  OneThread alone;
  Floats bias{1, 2, 3};
  Floats y(6, kNan);
  cpu::Epilogue e;
  e.bias = bias.data();
  const cpu::PackedMatrix none(0, 3, nullptr);
  cpu::gemm(alone, 2, nullptr, none, y.data(), e);
  for (std::size_t i = 0; i < 6; ++i) CHECK_EQUAL(y[i], bias[i % 3]);
  Floats tall(60, kNan);
  cpu::gemm(alone, 20, nullptr, none, tall.data(), e);
  for (std::size_t i = 0; i < 60; ++i) CHECK_EQUAL(tall[i], bias[i % 3]);
  cpu::gemm(alone, 0, nullptr, none, nullptr, e);
  cpu::gemm(alone, 2, y.data(), cpu::PackedMatrix(3, 0, nullptr), nullptr, e);
}

RX_TEST(low_rank_pairs) {
  each_isa([](const std::string& isa) {
    // |computed - exact| <= gamma(k + r) * |a| |p| |q| for both products in a row (Higham, 3.5)
    Comparison comparison("low rank " + isa);
    Random random(4);
    for (const auto& [m, k, r, n] : {std::tuple{1, 96, 8, 70},
                                     {5, 40, 17, 33},
                                     {200, 100, 24, 65},
                                     {300, 64, 33, 50},
                                     {17, 3, 1, 5}}) {
      for (const std::size_t threads : {1, 3}) {
        const Floats a = random.reals(m * k), p = random.reals(k * r), q = random.reals(r * n);
        const Floats bias = random.reals(n), residual = random.reals(m * n);
        Floats y(static_cast<std::size_t>(m * n));
        const cpu::Epilogue e = epilogue_of(3 + static_cast<int>(threads), bias, residual);
        Crew crew(threads);
        cpu::low_rank(crew, m, a.data(), cpu::PackedMatrix(k, r, p.data()),
                      cpu::PackedMatrix(r, n, q.data()), y.data(), e);
        for (std::int64_t i = 0; i < m; ++i) {
          std::vector<Sum> middle(static_cast<std::size_t>(r));
          for (std::int64_t j = 0; j < r; ++j)
            for (std::int64_t at = 0; at < k; ++at)
              middle[static_cast<std::size_t>(j)].add(a[static_cast<std::size_t>(i * k + at)],
                                                      p[static_cast<std::size_t>(at * r + j)]);
          for (std::int64_t j = 0; j < n; ++j) {
            Sum sum;
            for (std::int64_t at = 0; at < r; ++at) {
              const double factor = q[static_cast<std::size_t>(at * n + j)];
              sum.value += middle[static_cast<std::size_t>(at)].value * factor;
              sum.size += middle[static_cast<std::size_t>(at)].size * std::abs(factor);
            }
            comparison.add(y[static_cast<std::size_t>(i * n + j)], sum, k + r, e, j, i * n + j);
          }
        }
      }
    }
  });
  OneThread alone;
  const Floats ones(6, 1.0f);
  CHECK_THROWS("ranks 2 and 3",
               cpu::low_rank(alone, 1, ones.data(), cpu::PackedMatrix(3, 2, ones.data()),
                             cpu::PackedMatrix(3, 2, ones.data()), nullptr));
}

}  // namespace
}  // namespace rx::test

int main() {
  return rx::test::run_all();
}
