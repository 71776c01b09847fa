// Products with weights in integers, look-ups, and float16.
#include <cstring>
#include <tuple>

#include "cpu/half.h"
#include "cpu/quant.h"
#include "cpu_reference.h"

namespace rx::test {
namespace {

// A weight of random integers, scales and zero points.
struct Weight {
  cpu::QuantView view;
  std::vector<std::uint8_t> data, zeros;
  Floats scales;

  Weight(int bits, std::int64_t rows, std::int64_t columns, std::int64_t block, bool with_zeros,
         Random& random) {
    view.bits = bits;
    view.rows = rows;
    view.columns = columns;
    view.block = block;
    data = random.bytes(rows * view.blocks() * view.block_bytes());
    zeros = random.bytes(rows * view.zero_bytes());
    scales = random.reals(rows * view.blocks());
    view.data = data.data();
    view.scales = scales.data();
    if (with_zeros) view.zeros = zeros.data();
  }

  // The definition, bit by bit.
  double step(std::int64_t row, std::int64_t column) const {
    const std::int64_t block = column / view.block;
    const std::int64_t grid = row * view.blocks() + block;
    const std::int64_t bit = column % view.block * view.bits;
    const int mask = (1 << view.bits) - 1;
    const auto byte = data[static_cast<std::size_t>(grid * view.block_bytes() + bit / 8)];
    return (byte >> (bit % 8) & mask) - view.zero(row, block);
  }
  double scale(std::int64_t row, std::int64_t column) const {
    return scales[static_cast<std::size_t>(row * view.blocks() + column / view.block)];
  }
};

void compare_product(Comparison& comparison, const Weight& weight, std::int64_t m, Threads& threads,
                     int at, Random& random) {
  const std::int64_t n = weight.view.rows;
  const std::int64_t k = weight.view.columns;
  const Floats a = random.reals(m * k), bias = random.reals(n), residual = random.reals(m * n);
  const cpu::Epilogue e = epilogue_of(at, bias, residual);
  Floats y(static_cast<std::size_t>(m * n + 1), std::numeric_limits<float>::quiet_NaN());
  cpu::quant_gemm(threads, m, a.data(), cpu::PackedQuant(weight.view), y.data(), e);
  for (std::int64_t column = 0; column < n; ++column)
    for (std::int64_t row = 0; row < m; ++row) {
      Sum sum;
      for (std::int64_t i = 0; i < k; ++i)
        sum.add(a[static_cast<std::size_t>(row * k + i)],
                weight.step(column, i) * weight.scale(column, i));
      const std::int64_t to = row * n + column;
      comparison.add(y[static_cast<std::size_t>(to)], sum, k, e, column, to);
    }
  CHECK(std::isnan(y.back()));
}

RX_TEST(products_of_all_formats) {
  each_isa([](const std::string& isa) {
    Comparison comparison("quant gemm " + isa);
    Random random(1);
    Crew crew(3);
    OneThread alone;
    int at = 0;
    for (const int bits : {2, 4, 8})
      for (const std::int64_t block : {8, 16, 24, 32, 64, 128, 264})
        for (const bool zeros : {false, true})
          for (const std::int64_t k : {3, 33, 128, 300}) {
            const std::int64_t n = std::vector<std::int64_t>{1, 7, 16, 33, 129}[at % 5];
            const std::int64_t m =
                std::vector<std::int64_t>{1, 2, 3, 4, 5, 7, 8, 9, 17, 33}[at % 10];
            const Weight weight(bits, n, k, block, zeros, random);
            ++at;
            compare_product(comparison, weight, m, at % 3 ? static_cast<Threads&>(alone) : crew, at,
                            random);
          }
  });
}

RX_TEST(products_that_are_cut_into_blocks_and_pieces) {
  each_isa([](const std::string& isa) {
    Comparison comparison("large quant gemm " + isa);
    Random random(2);
    Crew crew(4);
    for (const int bits : {2, 4, 8})
      for (const auto& [m, n, k, block] : {std::tuple{1, 300, 700, 32},
                                           {6, 300, 530, 24},
                                           {40, 300, 700, 512},
                                           {33, 200, 800, 264}})
        compare_product(comparison, Weight(bits, n, k, block, bits == 4, random), m, crew, 0,
                        random);
  });
}

RX_TEST(nan_and_infinity_go_through) {
  each_isa([](const std::string&) {
    Random random(3);
    OneThread alone;
    for (const int bits : {2, 4, 8})
      for (const std::int64_t m : {1, 4, 20}) {
        Weight weight(bits, 20, 70, 32, true, random);
        weight.scales[3] = std::numeric_limits<float>::quiet_NaN();  // row 1
        Floats a = random.reals(m * 70), y(static_cast<std::size_t>(m * 20));
        a[static_cast<std::size_t>(m * 70 - 1)] = std::numeric_limits<float>::quiet_NaN();
        cpu::quant_gemm(alone, m, a.data(), cpu::PackedQuant(weight.view), y.data());
        for (std::int64_t i = 0; i < m * 20; ++i)
          CHECK(std::isnan(y[static_cast<std::size_t>(i)]) == (i % 20 == 1 || i / 20 == m - 1));
      }
  });
}

RX_TEST(look_ups) {
  each_isa([](const std::string& isa) {
    std::int64_t count = 0;
    Random random(4);
    Crew crew(3);
    for (const int bits : {2, 4, 8})
      for (const std::int64_t block : {8, 16, 24, 32, 128})
        for (const bool zeros : {false, true})
          for (const std::int64_t columns : {1, 7, 33, 130}) {
            const Weight weight(bits, 11, columns, block, zeros, random);
            std::vector<std::int64_t> indices{0, 10, -1, -11, 3, 3};
            std::vector<std::int32_t> narrow(indices.begin(), indices.end());
            Floats y(static_cast<std::size_t>(6 * columns)), again(y.size());
            cpu::quant_gather(crew, weight.view, indices.data(), 6, y.data());
            cpu::quant_gather(crew, weight.view, narrow.data(), 6, again.data());
            for (std::int64_t i = 0; i < 6 * columns; ++i) {
              std::int64_t row = indices[static_cast<std::size_t>(i / columns)];
              row += row < 0 ? 11 : 0;
              // the step is exact, and the product rounded once: equal to the last bit
              const float expected = static_cast<float>(weight.step(row, i % columns)) *
                                     static_cast<float>(weight.scale(row, i % columns));
              CHECK_EQUAL(y[static_cast<std::size_t>(i)], expected);
              CHECK_EQUAL(again[static_cast<std::size_t>(i)], expected);
              ++count;
            }
          }
    std::printf("     look-ups %s: %lld numbers, all equal\n", isa.c_str(),
                static_cast<long long>(count));
  });
}

RX_TEST(bad_input) {
  Random random(5);
  OneThread alone;
  Weight weight(4, 11, 32, 32, false, random);
  float y[64];
  for (const std::int64_t bad : {std::int64_t{11}, std::int64_t{-12}, INT64_MIN, INT64_MAX})
    CHECK_THROWS("11 rows", cpu::quant_gather(alone, weight.view, &bad, 1, y));
  for (const int bits : {0, 1, 3, 16}) {
    weight.view.bits = bits;
    CHECK_THROWS("expected 2, 4 or 8", cpu::PackedQuant(weight.view));
  }
  weight.view.bits = 4;
  for (const std::int64_t block : {0, 4, 12, -8}) {
    weight.view.block = block;
    CHECK_THROWS("multiple of 8", cpu::PackedQuant(weight.view));
  }
}

RX_TEST(empty_operands) {
  Random random(6);
  OneThread alone;
  const Weight none(4, 5, 0, 32, false, random);
  Floats y(10, 7.0f);
  cpu::quant_gemm(alone, 2, nullptr, cpu::PackedQuant(none.view), y.data());
  for (const float x : y) CHECK_EQUAL(x, 0.0f);
  y.assign(100, 7.0f);
  cpu::quant_gemm(alone, 20, nullptr, cpu::PackedQuant(none.view), y.data());
  for (const float x : y) CHECK_EQUAL(x, 0.0f);
  const Weight flat(4, 0, 64, 32, false, random);
  cpu::quant_gemm(alone, 2, y.data(), cpu::PackedQuant(flat.view), nullptr);
  const std::int64_t* indices = nullptr;
  cpu::quant_gather(alone, flat.view, indices, 0, nullptr);
}

// All 65536 values of float16, there and back; and floats around each of their middles.
RX_TEST(float16) {
  each_isa([](const std::string& isa) {
    std::vector<std::uint16_t> all(65536), back(65536);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
    Floats wide(65536);
    cpu::to_float(all.data(), wide.data(), 65536);
    cpu::to_half(wide.data(), back.data(), 65536);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const int exponent = i >> 10 & 31;
      const double fraction = static_cast<double>(i & 1023) / 1024;
      const double value =
          exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1 + fraction, exponent - 15);
      if (exponent == 31 && fraction != 0) {
        CHECK(std::isnan(wide[i]) && (back[i] & 0x7fff) > 0x7c00);
        continue;
      }
      CHECK_EQUAL(back[i], all[i]);
      CHECK_EQUAL(std::signbit(wide[i]), i >= 32768);
      if (exponent == 31)
        CHECK(std::isinf(wide[i]));
      else
        CHECK_EQUAL(std::abs(static_cast<double>(wide[i])), value);
    }
    for (std::size_t i = 0; i < 0x7bff; ++i) {
      const float middle = (wide[i] + wide[i + 1]) / 2;  // exact
      const Floats x{std::nextafter(middle, 0.0f),
                     middle,
                     std::nextafter(middle, 1e9f),
                     -middle,
                     middle,
                     middle,
                     middle,
                     middle,
                     middle};
      std::uint16_t found[9];
      cpu::to_half(x.data(), found, 9);
      const auto even = static_cast<std::uint16_t>(i % 2 ? i + 1 : i);
      CHECK_EQUAL(found[0], i);
      CHECK_EQUAL(found[1], even);
      CHECK_EQUAL(found[2], i + 1);
      CHECK_EQUAL(found[3], even | 0x8000);
      CHECK_EQUAL(found[8], even);
    }
    const Floats x{65519.0f, 65520.0f, -1e30f, 1e-30f};
    std::uint16_t found[4];
    cpu::to_half(x.data(), found, 4);
    CHECK_EQUAL(found[0], 0x7bff);
    CHECK_EQUAL(found[1], 0x7c00);
    CHECK_EQUAL(found[2], 0xfc00);
    CHECK_EQUAL(found[3], 0);
    std::printf("     float16 %s: all 65536 values, and 31743 middles\n", isa.c_str());
  });
}

}  // namespace
}  // namespace rx::test

int main() {
  return rx::test::run_all();
}
