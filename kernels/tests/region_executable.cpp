// Regions of several nodes: order, shapes, memory between nodes, plans kept, threads, refusals.
#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <thread>

#include "check.h"
#include "region/executable.h"

namespace rx::region {
namespace {

using Numbers = std::vector<float>;

Tensor view(const Numbers& numbers, Shape shape) {
  return {Type::kFloat, std::move(shape), const_cast<float*>(numbers.data())};
}

Numbers random_numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Numbers found(count);
  for (float& one : found) one = normal(random);
  return found;
}

// LowRankMatMul nodes one behind the other, 4 columns each: value 0 is the input, 1 + 3 i and
// 2 + 3 i are the factors of node i, 3 + 3 i its output.
struct Chain {
  explicit Chain(std::size_t length, bool residual = false) {
    region.values.push_back({"x", Type::kFloat});
    region.inputs = {0};
    for (std::size_t i = 0; i < length; ++i) {
      for (const std::size_t half : {0, 1}) {
        factors.push_back(random_numbers(8, static_cast<unsigned>(2 * i + half)));
        region.values.push_back({"factor", Type::kFloat});
      }
      region.values.push_back({"y" + std::to_string(i), Type::kFloat});
      Node node{"LowRankMatMul", "n" + std::to_string(i), {}, {}, {}};
      node.inputs = {3 * i, 1 + 3 * i, 2 + 3 * i};
      if (residual && i + 1 == length) node.inputs.insert(node.inputs.end(), {kAbsent, 0});
      node.outputs = {3 + 3 * i};
      region.nodes.push_back(node);
    }
    for (std::size_t i = 0; i < length; ++i) {
      region.constants[1 + 3 * i] = view(factors[2 * i], {4, 2});
      region.constants[2 + 3 * i] = view(factors[2 * i + 1], {2, 4});
    }
    region.outputs = {3 * length};
  }

  // In double precision.
  std::vector<double> expected(const Numbers& x, bool residual) const {
    std::vector<double> at(x.begin(), x.end());
    for (std::size_t i = 0; i < region.nodes.size(); ++i) {
      std::vector<double> next(at.size(), 0.0);
      for (std::size_t row = 0; row < at.size() / 4; ++row)
        for (std::size_t r = 0; r < 2; ++r) {
          double middle = 0;
          for (std::size_t k = 0; k < 4; ++k)
            middle += at[row * 4 + k] * static_cast<double>(factors[2 * i][k * 2 + r]);
          for (std::size_t n = 0; n < 4; ++n)
            next[row * 4 + n] += middle * static_cast<double>(factors[2 * i + 1][r * 4 + n]);
        }
      at = next;
    }
    for (std::size_t i = 0; residual && i < at.size(); ++i) at[i] += static_cast<double>(x[i]);
    return at;
  }

  std::vector<Numbers> factors;
  Region region;
};

Numbers run(const Executable& executable, const Numbers& x) {
  OneThread thread;
  const Shape shape = {static_cast<std::int64_t>(x.size() / 4), 4};
  const std::vector<Shape> shapes = {shape};
  const auto plan = executable.plan(shapes);
  Numbers y(x.size(), std::numeric_limits<float>::quiet_NaN());
  const std::vector<Tensor> inputs = {view(x, shape)};
  const std::vector<Tensor> outputs = {view(y, executable.output_shape(*plan, 0))};
  executable.run(*plan, thread, inputs, outputs);
  return y;
}

bool near(const Numbers& found, const std::vector<double>& expected) {
  double most = 1;
  for (const double one : expected) most = std::max(most, std::abs(one));
  for (std::size_t i = 0; i < found.size(); ++i)
    if (!(std::abs(static_cast<double>(found[i]) - expected[i]) <= 1e-5 * most)) return false;
  return true;
}

RX_TEST(a_chain_computes_what_its_nodes_say) {
  for (const std::size_t length : {1, 2, 5}) {
    for (const bool residual : {false, true}) {
      const Chain chain(length, residual);
      const Executable executable(chain.region);
      for (const std::size_t rows : {1, 3, 17}) {
        const Numbers x = random_numbers(4 * rows, 99);
        CHECK(near(run(executable, x), chain.expected(x, residual)));
      }
    }
  }
}

RX_TEST(values_between_nodes_share_memory) {
  const Chain chain(10);
  const Executable executable(chain.region);
  const std::vector<Shape> shapes = {{64, 4}};
  CHECK_EQUAL(executable.plan(shapes)->memory.bytes, std::size_t{2 * 64 * 4 * 4});
}

RX_TEST(plans_are_kept_and_bounded) {
  const Chain chain(1);
  const Executable executable(chain.region);
  const std::vector<Shape> first = {{1, 4}};
  const auto plan = executable.plan(first);
  CHECK(executable.plan(first) == plan);
  for (std::int64_t rows = 2; rows < 100; ++rows) {
    const std::vector<Shape> other = {{rows, 4}};
    executable.plan(other);
  }
  CHECK(executable.plan(first) != plan);  // pushed out, and still valid here
  CHECK_EQUAL(executable.output_shape(*plan, 0)[0], std::int64_t{1});
}

RX_TEST(threads_run_one_executable_at_once) {
  const Chain chain(4, true);
  const Executable executable(chain.region);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < 8; ++id)
    threads.emplace_back([&, id] {
      for (unsigned round = 0; round < 50; ++round) {
        const Numbers x = random_numbers(4 * (1 + (id + round) % 5), id * 100 + round);
        if (!near(run(executable, x), chain.expected(x, true))) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK_EQUAL(wrong.load(), 0);
}

RX_TEST(an_empty_batch_gives_an_empty_result) {
  const Chain chain(3);
  const Executable executable(chain.region);
  CHECK_EQUAL(run(executable, {}).size(), std::size_t{0});
}

// The message of what `function` throws; "" where it throws nothing.
template <typename Function>
std::string refusal(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

RX_TEST(malformed_regions_are_refused) {
  Chain chain(2);
  const auto broken = [&](auto&& change) {
    Region region = chain.region;
    change(region);
    return refusal([&] { const Executable executable(region); });
  };
  CHECK(has(broken([](Region& r) { std::swap(r.nodes[0], r.nodes[1]); }), "before it is made"));
  CHECK(has(broken([](Region& r) { r.nodes[1].outputs = {3}; }), "made twice"));
  CHECK(has(broken([](Region& r) { r.nodes[1].inputs[0] = 99; }), "uses value 99 of 7"));
  CHECK(has(broken([](Region& r) { r.outputs = {0}; }), "is not made by a node"));
  CHECK(has(broken([](Region& r) { r.values[3].type = Type::kNone; }), "has no type"));
  CHECK(has(broken([](Region& r) { r.nodes[1].op = "Relu"; }), "none of ours"));
  CHECK(has(broken([](Region& r) { r.constants.erase(4); }), "before it is made"));
  CHECK(has(broken([](Region& r) { r.nodes[0].inputs.resize(2); }), "the input Q is missing"));
}

RX_TEST(tensors_that_do_not_fit_are_refused) {
  const Chain chain(1);
  const Executable executable(chain.region);
  const auto planned = [&](Shape shape) {
    const std::vector<Shape> shapes = {std::move(shape)};
    return refusal([&] { executable.plan(shapes); });
  };
  CHECK(has(planned({3, 5}), "LowRankMatMul n0: A: found the shape (3, 5)"));
  CHECK(has(planned({-3, 4}), "negative size"));
  CHECK(has(planned({std::int64_t{1} << 40, std::int64_t{1} << 40, 4}), "too many elements"));
  CHECK(has(planned({}), "A: found the shape ()"));

  OneThread thread;
  const std::vector<Shape> shapes = {{2, 4}};
  const auto plan = executable.plan(shapes);
  const Numbers x(8, 0);
  const std::vector<Tensor> good = {view(x, {2, 4})};
  const std::vector<Tensor> bad = {view(x, {4, 2})};
  CHECK(
      has(refusal([&] { executable.run(*plan, thread, bad, good); }), "input x: found the shape"));
  CHECK(has(refusal([&] { executable.run(*plan, thread, good, bad); }), "output y0"));
  CHECK(has(refusal([&] { executable.run(*plan, thread, {}, good); }), "found 0 inputs"));
}

}  // namespace
}  // namespace rx::region

int main() {
  return rx::test::run_all();
}
