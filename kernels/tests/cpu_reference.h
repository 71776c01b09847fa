// What the tests of cpu/ compare with: sums in double, and the bound that float sums must keep.
//
// A float sum of n products is within gamma(n) * sum|a||b| of the exact one, gamma(n) = n u / (1 -
// n u), u = 2^-24, in whatever order it is added (N. Higham, Accuracy and Stability of Numerical
// Algorithms, 2002, section 3.1). Bias and residual are two more terms. A weight in integers adds
// the rounding of a product with its scale: gamma(n + 4) covers all of that. An activation moves an
// error by at most 1.14 (the largest slope of Gelu and Silu) and adds 8 u |x| (micro/finish.h).
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "check.h"
#include "cpu/epilogue.h"
#include "cpu/isa.h"

namespace rx::test {

using Floats = std::vector<float>;

constexpr double kUnit = 1.0 / (1 << 24);

inline double gamma(std::int64_t n) {
  return static_cast<double>(n) * kUnit / (1 - static_cast<double>(n) * kUnit);
}

// Threads that start with each run: as many as asked for, whatever the machine has.
class Crew final : public Threads {
 public:
  explicit Crew(std::size_t count) : count_(count) {}
  std::size_t count() const override { return count_; }
  void run(std::size_t total, Body body, void* context) override {
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
      for (std::size_t at = next++; at < total; at = next++) body(context, at);
    };
    std::vector<std::thread> others;
    for (std::size_t i = 1; i < count_; ++i) others.emplace_back(work);
    work();
    for (std::thread& thread : others) thread.join();
  }

 private:
  std::size_t count_;
};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  float real() { return std::normal_distribution<float>()(engine_); }
  int below(int end) { return std::uniform_int_distribution<int>(0, end - 1)(engine_); }
  Floats reals(std::int64_t count) {
    Floats all(static_cast<std::size_t>(count));
    for (float& x : all) x = real();
    return all;
  }
  std::vector<std::uint8_t> bytes(std::int64_t count) {
    std::vector<std::uint8_t> all(static_cast<std::size_t>(count));
    for (auto& x : all) x = static_cast<std::uint8_t>(below(256));
    return all;
  }

 private:
  std::mt19937 engine_;
};

inline double activated(double x, const cpu::Epilogue& e) {
  switch (e.activation) {
    case cpu::Activation::kNone:
      return x;
    case cpu::Activation::kRelu:
      return x < 0 ? 0 : x;
    case cpu::Activation::kClip:
      return x < e.low ? static_cast<double>(e.low) : x > e.high ? static_cast<double>(e.high) : x;
    case cpu::Activation::kGelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case cpu::Activation::kGeluTanh:
      return x / (1 + std::exp(-std::sqrt(8 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case cpu::Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

// A sum before its epilogue: exact (all but), and with absolute values.
struct Sum {
  double value = 0;
  double size = 0;
  void add(double a, double b) {
    value += a * b;
    size += std::abs(a * b);
  }
};

constexpr std::int64_t kExact = -1;  // "terms" of a sum that has no error

// Compares results; prints the worst as a share of the bound.
class Comparison {
 public:
  explicit Comparison(std::string what) : what_(std::move(what)) {}
  ~Comparison() {
    std::printf("     %s: %lld numbers, at most %.2f of the bound\n", what_.c_str(),
                static_cast<long long>(count_), worst_);
  }

  // y against epilogue(sum), the sum being one of `terms` products.
  void add(float y, Sum sum, std::int64_t terms, const cpu::Epilogue& e, std::int64_t channel,
           std::int64_t at) {
    if (e.bias != nullptr) sum.add(e.bias[channel], 1);
    if (e.residual != nullptr) sum.add(e.residual[at], 1);
    const double expected = activated(sum.value, e);
    const bool smooth = e.activation >= cpu::Activation::kGelu;
    // the least float covers what falls below the range of normal numbers
    const double bound =
        (smooth ? 1.14 : 1.0) * (terms == kExact ? 0.0 : gamma(terms + 4)) * sum.size +
        (smooth ? 8 * kUnit * std::abs(sum.value) : 0.0) +
        static_cast<double>(std::max<std::int64_t>(terms, 0) + 1) *
            static_cast<double>(std::numeric_limits<float>::min());
    ++count_;
    const double error = std::abs(static_cast<double>(y) - expected);
    worst_ = std::max(worst_, error / bound);
    if (error <= bound) return;
    if (++failed_ > 3) return void(++failures());
    fail(what_.c_str(), 0,
         "found " + std::to_string(y) + ", expected " + std::to_string(expected) + " within " +
             std::to_string(bound) + " at " + std::to_string(at));
  }

 private:
  std::string what_;
  std::int64_t count_ = 0;
  std::int64_t failed_ = 0;
  double worst_ = 0;
};

// Calls body(name) with each instruction set of this machine in turn.
template <typename Body>
void each_isa(Body&& body) {
  const cpu::Isa before = cpu::isa();
  for (const cpu::Isa isa : {cpu::Isa::kBaseline, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (cpu::force(isa))
      body(std::string(cpu::name_of(isa)));
    else
      std::printf("     this machine has no %s: not checked\n", cpu::name_of(isa));
  }
  cpu::force(before);
}

constexpr cpu::Activation kActivations[] = {cpu::Activation::kNone,     cpu::Activation::kRelu,
                                            cpu::Activation::kClip,     cpu::Activation::kGelu,
                                            cpu::Activation::kGeluTanh, cpu::Activation::kSilu};

// The epilogue number `at` of a test: activations in turn, bias and residual as bits say.
inline cpu::Epilogue epilogue_of(int at, const Floats& bias, const Floats& residual) {
  cpu::Epilogue e;
  e.activation = kActivations[at % 6];
  e.low = -0.5f;
  e.high = 0.75f;
  if (at & 1) e.bias = bias.data();
  if (at & 2) e.residual = residual.data();
  return e;
}

}  // namespace rx::test
