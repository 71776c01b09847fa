// The self-test of a device: small kernels of its own, so that it says whether the driver works
// whatever the state of the families.
#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "opencl/context_state.h"
#include "opencl/reports.h"

namespace rx::opencl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kSource[] = R"(
__kernel void move(int count, __global const uchar* from, __global uchar* to) {
  const int i = (int)get_global_id(0);
  if (i < count) to[i] = from[i];
}

// C = A * B, all 32 x 32; a group of 8 x 8 shares slabs of 8 in local memory.
__kernel __attribute__((reqd_work_group_size(8, 8, 1)))
void product(int size, __global const float* a, __global const float* b, __global float* c) {
  __local float slab_a[8][8], slab_b[8][8];
  const int x = (int)get_local_id(0), y = (int)get_local_id(1);
  const int column = (int)get_global_id(0), row = (int)get_global_id(1);
  float sum = 0.0f;
  for (int k = 0; k < size; k += 8) {
    slab_a[y][x] = a[row * size + k + x];
    slab_b[y][x] = b[(k + y) * size + column];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = 0; i < 8; ++i) sum += slab_a[y][i] * slab_b[i][x];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  c[row * size + column] = sum;
}

__kernel void widen(int count, __global const half* from, __global float* to) {
  const int i = (int)get_global_id(0);
  if (i < count) to[i] = vload_half(i, from);
}
)";

constexpr std::int64_t kMoved = 1 << 20;
constexpr std::int64_t kSize = 32;

std::shared_ptr<const Plan> plan_of(Context& context) {
  Context::State& my = context.state();
  auto state = std::make_unique<Plan::State>();
  state->family = "self-test";
  state->program = my.programs->get("self-test", kSource, "-cl-std=CL1.2");
  const auto add = [&](const char* name, std::size_t x, std::size_t y, std::size_t group,
                       std::size_t rows) {
    Launch launch;
    launch.name = name;
    launch.id = my.kernel_id(state->program.get(), name);
    launch.global = {x, y, 1};
    launch.local = {group, rows, 1};
    state->launches.push_back(launch);
  };
  add("move", kMoved, 1, 64, 1);
  add("product", kSize, kSize, 8, 8);
  add("widen", 64, 1, 64, 1);
  return std::make_shared<const Plan>(std::move(state));
}

template <typename T>
Tensor tensor(Type type, std::vector<T>& values) {
  return {type, {static_cast<std::int64_t>(values.size())}, values.data()};
}

void check_copy(Context& context, const Plan& plan) {
  std::vector<std::uint8_t> from(kMoved);
  std::vector<std::uint8_t> to(kMoved, 0);
  for (std::size_t i = 0; i < from.size(); ++i)
    from[i] = static_cast<std::uint8_t>(i * 7 + i / 251);
  const auto stream = context.stream();
  const DeviceTensor in = stream->input(tensor(Type::kUint8, from));
  const DeviceTensor out = stream->output(tensor(Type::kUint8, to));
  stream->launch(plan, "move", {}, static_cast<std::int32_t>(kMoved), in, out);
  stream->finish();
  if (from != to) throw Error(Code::kFail, "bytes came back changed");
}

// Small whole numbers: the sums are exact in any order.
void check_product(Context& context, const Plan& plan) {
  std::vector<float> a(kSize * kSize);
  std::vector<float> b(a.size());
  std::vector<float> c(a.size(), -1.0F);
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<float>(static_cast<int>(i * 5 % 17) - 8);
    b[i] = static_cast<float>(static_cast<int>(i * 11 % 13) - 6);
  }
  const auto stream = context.stream();
  const DeviceTensor left = stream->input(tensor(Type::kFloat, a));
  const DeviceTensor right = stream->input(tensor(Type::kFloat, b));
  const DeviceTensor out = stream->output(tensor(Type::kFloat, c));
  stream->launch(plan, "product", {}, static_cast<std::int32_t>(kSize), left, right, out);
  stream->finish();
  for (std::size_t row = 0; row < kSize; ++row) {
    for (std::size_t column = 0; column < kSize; ++column) {
      float sum = 0;
      for (std::size_t k = 0; k < kSize; ++k) sum += a[row * kSize + k] * b[k * kSize + column];
      if (sum != c[row * kSize + column])
        throw Error(Code::kFail, text("element (", row, ", ", column, ") is ",
                                      c[row * kSize + column], ", expected ", sum));
    }
  }
}

// Halves as they are stored: 1, -2, 0.5, the largest, the smallest normal.
void check_half(Context& context, const Plan& plan) {
  const std::pair<std::uint16_t, float> kKnown[] = {
      {0x3C00, 1.0F}, {0xC000, -2.0F}, {0x3800, 0.5F}, {0x7BFF, 65504.0F}, {0x0400, 0x1p-14F}};
  std::vector<std::uint16_t> from(64, 0);
  std::vector<float> to(64, -1.0F);
  std::size_t count = 0;
  for (const auto& one : kKnown) from[count++] = one.first;
  const auto stream = context.stream();
  const DeviceTensor in = stream->input(tensor(Type::kHalf, from));
  const DeviceTensor out = stream->output(tensor(Type::kFloat, to));
  stream->launch(plan, "widen", {}, std::int32_t{64}, in, out);
  stream->finish();
  for (std::size_t i = 0; i < 64; ++i) {
    const float expected = i < count ? kKnown[i].second : 0.0F;
    if (to[i] != expected)
      throw Error(Code::kFail, text("the half ", from[i], " became ", to[i], ", not ", expected));
  }
}

struct Check {
  std::string name;
  std::string error;
};

Check checked(const char* name, const std::function<void()>& body) {
  try {
    body();
    return {name, ""};
  } catch (const std::exception& error) {
    return {name, error.what()};
  }
}

}  // namespace

std::string selftest_report(const std::string& specification, const Settings& settings) {
  const auto start = Clock::now();
  std::vector<Check> checks;
  Context* device = nullptr;
  std::shared_ptr<const Plan> plan;
  checks.push_back(checked("device", [&] { device = context(specification, settings); }));
  if (device != nullptr) {
    checks.push_back(checked("compile", [&] { plan = plan_of(*device); }));
    if (plan != nullptr) {
      checks.push_back(checked("copy", [&] { check_copy(*device, *plan); }));
      checks.push_back(checked("product", [&] { check_product(*device, *plan); }));
      checks.push_back(checked("half", [&] { check_half(*device, *plan); }));
    }
  }
  bool ok = true;
  std::string list;
  for (const Check& check : checks) {
    ok = ok && check.error.empty();
    list += text(list.empty() ? "" : ", ", "{\"name\": ", json::quoted(check.name),
                 ", \"ok\": ", check.error.empty() ? "true" : "false",
                 ", \"error\": ", json::quoted(check.error), "}");
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return text("{\"ok\": ", ok ? "true" : "false", ", \"seconds\": ", seconds, ", \"checks\": [",
              list, "]}");
}

}  // namespace rx::opencl
