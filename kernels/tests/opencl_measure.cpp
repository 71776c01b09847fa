// Times of the host, printed: microseconds, medians. Bounds are wide: machines are shared.
#include <time.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "check.h"
#include "device.h"

namespace {

using namespace rx::opencl;
using rx::Type;
using rx::test::Place;

template <typename Body>
double seconds(Body&& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> all) {
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2),
                   all.end());
  return all[all.size() / 2];
}

Place& place() {
  static Place one("cache");
  return one;
}

}  // namespace

RX_TEST(creation) {
  Device device;
  const double found =
      seconds([&] { choose(Place::wanted(), place().settings().libraries, device); });
  const auto start = [](const char* name) {
    Settings settings = place().settings();
    settings.params = name;  // another context each time
    return seconds([&] {
      Context& fresh = *context(Place::wanted(), settings);
      fresh.family("add").variant({})->plan({64});
    });
  };
  const double cold = start("cold");
  const double warm = start("warm");
  std::printf("device found %.1f ms; context and program: cold %.1f ms, warm %.1f ms\n",
              found * 1e3, cold * 1e3, warm * 1e3);
  CHECK(warm < 0.5);
}

RX_TEST(launch) {
  Context& context = place().context();
  const auto variant = context.family("add").variant({});
  const auto plan = variant->plan({64});
  std::vector<double> times;
  std::vector<double> plans;
  for (int run = 0; run < 101; ++run) {
    const auto stream = context.stream();
    for (int i = 0; i < 100; ++i) {
      plans.push_back(seconds([&] { variant->plan({64 + i % 2}); }));
      times.push_back(seconds([&] { stream->launch(*plan, "nothing", {}, 1); }));
    }
    stream->finish();
    if (run == 0) times.clear();  // the driver compiles
  }
  std::printf("launch %.2f us, plan from the cache %.2f us\n", median(times) * 1e6,
              median(plans) * 1e6);
  CHECK(median(times) < 300e-6);
}

RX_TEST(run_with_64_kib_in_and_out) {
  Context& context = place().context();
  constexpr std::int64_t kCount = 16384;
  std::vector<float> x(kCount, 1.0F);
  std::vector<float> y(kCount, 0.0F);
  const auto variant = context.family("add").variant({});
  std::vector<double> times;
  std::vector<double> empty;
  for (int i = 0; i < 1000; ++i) {
    times.push_back(seconds([&] {
      const auto plan = variant->plan({kCount});
      const auto stream = context.stream();
      const DeviceTensor in = stream->input({Type::kFloat, {kCount}, x.data()});
      const DeviceTensor out = stream->output({Type::kFloat, {kCount}, y.data()});
      stream->launch(*plan, "add", {}, static_cast<std::int32_t>(kCount), 1.0F, in, out);
      stream->finish();
    }));
    empty.push_back(seconds([&] {
      const auto stream = context.stream();
      stream->finish();
    }));
  }
  std::printf("run with 64 KiB in and out %.1f us, without commands %.1f us\n", median(times) * 1e6,
              median(empty) * 1e6);
  CHECK_EQUAL(y[kCount - 1], 2.0F);
}

int main() {
  return Place::none() ? rx::test::kSkipped : rx::test::run_all();
}
