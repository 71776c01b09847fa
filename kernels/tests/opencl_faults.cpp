// Failures at every point: an Error, nothing leaked, and the next run is right. Fork: an Error.
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "base/error.h"
#include "base/json.h"
#include "check.h"
#include "device.h"
#include "opencl/faults.h"
#include "opencl/reports.h"

namespace {

using namespace rx::opencl;
using rx::Tensor;
using rx::Type;
using rx::test::Place;

Place& place() {
  static Place one;
  return one;
}
Context& device() {
  return place().context();
}

constexpr std::int64_t kSmall = 1000;
constexpr std::int64_t kLarge = 200000;  // is mapped where the device shares the host's memory

struct Arrays {
  alignas(4096) float x[kLarge];
  alignas(4096) float y[kLarge];
};

// Two outputs, by read and, where the device shares memory, by map.
void run(const Values& options) {
  static auto* arrays = new Arrays;
  float small[kSmall];
  for (std::int64_t i = 0; i < kLarge; ++i) {
    arrays->x[i] = static_cast<float>(i % 100);
    arrays->y[i] = -1;
  }
  const DeviceTensor constant = device().constant({Type::kFloat, {kSmall}, arrays->x});
  const auto large = device().family("add").variant(options)->plan({kLarge});
  const auto little = device().family("add").variant(options)->plan({kSmall});
  const auto stream = device().stream();
  const DeviceTensor in = stream->input({Type::kFloat, {kLarge}, arrays->x});
  const DeviceTensor middle = stream->temporary(Type::kFloat, {kLarge});
  const DeviceTensor out = stream->output({Type::kFloat, {kLarge}, arrays->y});
  const DeviceTensor more = stream->output({Type::kFloat, {kSmall}, small});
  const auto size = static_cast<std::int32_t>(kLarge);
  stream->launch(*large, "add", {}, size, 1.0F, in, middle);
  stream->launch(*large, "add", {}, size, 1.0F, middle, out);
  stream->launch(*little, "add", {}, static_cast<std::int32_t>(kSmall), 5.0F, constant, more);
  stream->finish();
  for (std::int64_t i = 0; i < kLarge; ++i)
    if (arrays->y[i] != arrays->x[i] + 2) throw std::logic_error("the large result is wrong");
  for (std::int64_t i = 0; i < kSmall; ++i)
    if (small[i] != arrays->x[i] + 5) throw std::logic_error("the small result is wrong");
}

// Fails at the 1st, 2nd, ... call of that point until a run gets by; counts the failures.
int failures_at(const std::string& point) {
  for (int nth = 1; nth < 100; ++nth) {
    const PoolCounts before = device().memory();
    set_fault(point, nth);
    bool failed = false;
    try {
      run({});
    } catch (const rx::Error& error) {
      failed = true;
      CHECK(std::string(error.what()).find(device().device().name) != std::string::npos);
      CHECK(error.code() == rx::Code::kFail);
    }
    set_fault(point, 0);
    const PoolCounts after = device().memory();
    CHECK_EQUAL(after.in_use, before.in_use);
    run({});
    CHECK(device().memory().kept <= before.kept + (std::size_t{8} << 20));
    if (!failed) return nth - 1;
  }
  return -1;
}

// What a process does after a fork; its exit code.
template <typename Body>
int in_child(Body&& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a hang ends as a signal
    int code = 1;
    try {
      code = body();
    } catch (const rx::Error& error) {
      code = std::string(error.what()).find("forked") != std::string::npos ? 0 : 2;
    } catch (...) {
      code = 3;
    }
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

RX_TEST(every_point_fails_cleanly) {
  run({});
  const bool maps = device().device().unified;
  CHECK_EQUAL(failures_at("enqueue"), 3);
  CHECK_EQUAL(failures_at("write"), maps ? 1 : 2);
  CHECK_EQUAL(failures_at("read"), maps ? 1 : 2);
  CHECK_EQUAL(failures_at("map"), maps ? 1 : 0);
  CHECK_EQUAL(failures_at("allocate"), 5);
}

RX_TEST(a_build_that_fails_is_tried_again) {
  set_fault("build", 1);
  CHECK_THROWS("add cannot be built for", run({{"FLAVOUR", 1}}));
  run({{"FLAVOUR", 1}});
}

RX_TEST(threads_that_wait_for_a_failed_build) {
  set_fault("build", 1);
  int failed = 0;
  std::mutex guard;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      try {
        device().family("add").variant({{"FLAVOUR", 2}})->plan({kSmall});
      } catch (const rx::Error&) {
        const std::lock_guard<std::mutex> lock(guard);
        ++failed;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(failed >= 1 && failed <= 4);
  run({{"FLAVOUR", 2}});
}

RX_TEST(a_stream_that_is_left_waits) {
  std::vector<float> gone(100000);
  {
    const auto plan = device().family("add").variant({})->plan({100000});
    const auto stream = device().stream();
    const DeviceTensor in = stream->input({Type::kFloat, {100000}, gone.data()});
    stream->launch(*plan, "add", {}, 100000, 1.0F, in, in);
  }
  gone = {};
  run({});
}

RX_TEST(a_forked_process_gets_an_error) {
  run({});
  const auto plan = device().family("add").variant({})->plan({kSmall});
  auto stream = device().stream();
  Buffer buffer = stream->temporary(std::size_t{4000});
  CHECK_EQUAL(in_child([] {
                run({});
                return 1;
              }),
              0);
  CHECK_EQUAL(in_child([] {
                device().stream();
                return 1;
              }),
              0);
  CHECK_EQUAL(in_child([&] {  // what the child has inherited dies in it without a hang
                buffer = Buffer();
                stream.reset();
                return 0;
              }),
              0);
  CHECK_EQUAL(in_child([&] {
                stream->launch(*plan, "add", {}, 1000, 1.0F, buffer, buffer);
                return 1;
              }),
              0);
  CHECK_EQUAL(in_child([] {
                const auto all = rx::json::parse(devices_report(place().settings()), "devices");
                const bool told = all.at("error").string().find("forked") != std::string::npos;
                return told && context("cpu", place().settings()) == nullptr ? 0 : 1;
              }),
              0);
  stream->launch(*plan, "add", {}, 1000, 1.0F, buffer, buffer);
  stream->finish();
  stream.reset();
  run({});
}

int main() {
  if (Place::none()) return rx::test::kSkipped;
  return rx::test::run_all();
}
