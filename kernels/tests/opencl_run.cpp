// On a device: results, reuse, threads, limits, the cache, the profile.
#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/json.h"
#include "check.h"
#include "device.h"
#include "opencl/context_state.h"
#include "opencl/program_cache.h"
#include "opencl/reports.h"

namespace {

using namespace rx::opencl;
using rx::Tensor;
using rx::Type;
using rx::test::Place;

// Contexts live as long as the process, and so do the folders that they read.
Place& place() {
  static Place one;
  return one;
}
Place& another(const std::string& cache) {
  static std::vector<std::unique_ptr<Place>> all;
  all.push_back(std::make_unique<Place>(cache));
  return *all.back();
}
Context& device() {
  return place().context();
}

// Host memory that is aligned or just not.
class Host {
 public:
  Host(std::size_t count, std::size_t offset) : all_(count + 2048), at_(all_.data()) {
    while (reinterpret_cast<std::uintptr_t>(at_) % 4096 != 0) ++at_;
    at_ += offset;
  }
  float* data() { return at_; }

 private:
  std::vector<float> all_;
  float* at_;
};

Tensor tensor(Host& host, std::size_t count) {
  return {Type::kFloat, {static_cast<std::int64_t>(count)}, host.data()};
}

// y = x + 1, then + 2 through a temporary; true where y is right.
bool sums(Context& context, std::size_t count, std::size_t offset,
          const rx::opencl::Values& options = {}) {
  Host x(count, offset);
  Host y(count, offset);
  for (std::size_t i = 0; i < count; ++i) x.data()[i] = static_cast<float>(i % 1000);
  const auto plan =
      context.family("add").variant(options)->plan({static_cast<std::int64_t>(count)});
  const auto stream = context.stream();
  const DeviceTensor in = stream->input(tensor(x, count));
  const DeviceTensor middle = stream->temporary(Type::kFloat, {static_cast<std::int64_t>(count)});
  const DeviceTensor out = stream->output(tensor(y, count));
  const auto size = static_cast<std::int32_t>(count);
  stream->launch(*plan, "add", {8.0 * size, 1.0 * size}, size, 1.0F, in, middle);
  stream->launch(*plan, "add", {8.0 * size, 1.0 * size}, size, 2.0F, middle, out);
  stream->finish();
  bool right = true;
  for (std::size_t i = 0; i < count; ++i) right = right && y.data()[i] == x.data()[i] + 3.0F;
  return right;
}

}  // namespace

RX_TEST(results) {
  for (const std::size_t count : {1, 2, 63, 64, 65, 1000, 65536, 65537, 300001})
    for (const std::size_t offset : {0, 1, 32}) CHECK(sums(device(), count, offset));
  CHECK(sums(device(), 0, 0));
}

RX_TEST(one_context_for_a_device) {
  CHECK(&device() == &device());
  CHECK(context("cpu", place().settings()) == nullptr);
}

RX_TEST(memory_is_reused) {
  Context& context = device();
  sums(context, 5000, 1);
  const PoolCounts before = context.memory();
  for (int i = 0; i < 50; ++i) sums(context, 5000 + static_cast<std::size_t>(i), 1);
  const PoolCounts after = context.memory();
  CHECK_EQUAL(after.created, before.created);
  CHECK_EQUAL(after.in_use, before.in_use);
  CHECK_EQUAL(after.kept, before.kept);
  CHECK_EQUAL(after.reused, before.reused + 150);
  // Within a run what is dropped serves again at once.
  const auto stream = context.stream();
  for (int i = 0; i < 100; ++i) stream->temporary(std::size_t{1} << 20);
  CHECK(context.memory().created <= after.created + 1);
}

RX_TEST(ten_thousand_launches_do_not_grow) {
  Context& context = device();
  const auto plan = context.family("add").variant({})->plan({64});
  sums(context, 64, 0);
  const PoolCounts before = context.memory();
  for (int run = 0; run < 100; ++run) {
    const auto stream = context.stream();
    Buffer x = stream->temporary(std::size_t{256});
    for (int i = 0; i < 100; ++i) {
      Buffer y = stream->temporary(std::size_t{256});
      stream->launch(*plan, "add", {}, 64, 1.0F, x, y);
      x = y;
    }
    stream->finish();
  }
  const PoolCounts after = context.memory();
  CHECK_EQUAL(after.in_use, before.in_use);
  CHECK(after.created <= before.created + 3);
  CHECK(after.kept <= before.kept + 3 * 256);
}

RX_TEST(shapes_that_never_repeat_do_not_grow) {
  const auto variant = device().family("add").variant({});
  const auto first = variant->plan({1});
  for (std::int64_t n = 2; n < 2000; ++n) variant->plan({n});
  CHECK_EQUAL(first->value("N"), 1);  // still whole
  CHECK(variant->plan({1999}) == variant->plan({1999}));
}

RX_TEST(eight_threads) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 8; ++t)
    threads.emplace_back([&wrong, t] {
      try {
        for (std::size_t i = 0; i < 20; ++i)
          if (!sums(device(), 1000 * t + i * 7000 + 1, t % 2, {{"FLAVOUR", t % 4}})) ++wrong;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK_EQUAL(wrong.load(), 0);
}

RX_TEST(more_threads_than_streams_wait) {
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 40; ++t)
    threads.emplace_back([&done] {
      for (int i = 0; i < 5; ++i) done += sums(device(), 100, 0);
    });
  for (std::thread& thread : threads) thread.join();
  CHECK_EQUAL(done.load(), 200);
}

RX_TEST(constants) {
  for (const std::size_t count : {1, 100000}) {
    Host x(count, 0);
    Host y(count, 1);
    for (std::size_t i = 0; i < count; ++i) x.data()[i] = static_cast<float>(i);
    const PoolCounts before = device().memory();
    {
      const DeviceTensor in = device().constant(tensor(x, count));
      const auto plan =
          device().family("add").variant({})->plan({static_cast<std::int64_t>(count)});
      const auto stream = device().stream();
      const DeviceTensor out = stream->output(tensor(y, count));
      stream->launch(*plan, "add", {}, static_cast<std::int32_t>(count), 1.0F, in, out);
      stream->finish();
      CHECK_EQUAL(y.data()[count - 1], static_cast<float>(count));
    }
    CHECK_EQUAL(device().memory().in_use, before.in_use);
  }
}

RX_TEST(out_of_memory_says_what_there_is) {
  Context& context = device();
  const auto stream = context.stream();
  const std::size_t much = context.device().most_at_once + 1;
  CHECK_THROWS(rx::text("out of device memory: ", much, " bytes were asked for"),
               stream->temporary(much));
  CHECK_THROWS(rx::text(context.device().name, " has ", context.device().memory),
               stream->temporary(SIZE_MAX));
  CHECK_THROWS("too many elements", stream->temporary(Type::kFloat, {1 << 30, 1 << 30}));
  CHECK(sums(context, 100, 0));
}

RX_TEST(wrong_launches_are_refused) {
  Context& context = device();
  const auto plan = context.family("add").variant({})->plan({64});
  const auto stream = context.stream();
  const Buffer x = stream->temporary(std::size_t{256});
  CHECK_THROWS("has no kernel sub", stream->launch(*plan, "sub", {}, 1));
  CHECK_THROWS("the kernel add has 4 arguments, not 3", stream->launch(*plan, "add", {}, 64, x, x));
  CHECK_THROWS("argument 2 of the kernel add is no buffer",
               stream->launch(*plan, "add", {}, 64, 1.0F, Buffer(), x));
  CHECK_THROWS("argument 1 of the kernel add", stream->launch(*plan, "add", {}, 64, x, x, x));
  CHECK_THROWS("65 work-items are no multiple of a group's 64", stream->launch(*plan, "odd", {}));
  CHECK_THROWS("at most 2147483647 are possible", stream->launch(*plan, "huge", {}));
  CHECK_THROWS("has no value P", plan->value("P"));
  CHECK(plan->needs("huge") && !context.family("add").variant({})->plan({5})->needs("huge"));
  CHECK_THROWS("has 1 sizes, not 2", context.family("add").variant({})->plan({1, 2}));
  CHECK_THROWS("7 is no value of the option FLAVOUR",
               context.family("add").variant({{"FLAVOUR", 7}}));
  CHECK_THROWS("has no option TASTE", context.family("add").variant({{"TASTE", 0}}));
  CHECK_THROWS("cannot be read", context.family("missing"));
}

RX_TEST(a_source_that_cannot_be_built) {
  const auto variant = device().family("broken").variant({});
  for (int i = 0; i < 2; ++i) {
    CHECK_THROWS("undeclared_thing", variant->plan({1}));
    CHECK_THROWS("options -cl-std=CL1.2", variant->plan({1}));
    CHECK_THROWS(device().device().name, variant->plan({1}));
  }
}

RX_TEST(the_cache_is_used_and_repaired) {
  for (const char* damage : {"", "not a program", "RXPROG01"}) {
    static int round = 0;
    Place& own = another(rx::text("cache", ++round));
    CHECK(sums(own.context(), 100, 0));
    const std::string folder = rx::text("cache", round);
    const auto files = own.folder().files(folder);
    CHECK_EQUAL(files.size(), std::size_t{1});
    if (files.empty()) return;
    const std::string name = folder + files[0].substr(files[0].rfind('/'));
    std::ifstream file(files[0], std::ios::binary);
    const std::string whole{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    own.folder().write(name, *damage != '\0' ? damage : whole);
    Settings again = own.settings();
    again.params = rx::text("another context ", round);
    CHECK(sums(*context(Place::wanted(), again), 100, 0));
    std::ifstream repaired(files[0], std::ios::binary);
    const std::string now{std::istreambuf_iterator<char>(repaired),
                          std::istreambuf_iterator<char>()};
    CHECK(now.size() > 1000);
  }
}

RX_TEST(a_program_that_the_driver_refuses_is_built_again) {
  Place& own = another("cache");
  CHECK(sums(own.context(), 100, 0));
  const std::string path = own.folder().files("cache").at(0);
  const std::string folder = path.substr(0, path.rfind('/'));
  std::ifstream file(path, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::uint64_t key_size = 0;
  std::memcpy(&key_size, whole.data() + 8, sizeof key_size);
  const std::string key = whole.substr(32, key_size);
  CHECK(read_entry(folder, key).has_value());
  write_entry(folder, key, "whole, but no program");
  Settings again = own.settings();
  again.params = "another context";
  CHECK(sums(*context(Place::wanted(), again), 100, 0));
  CHECK(read_entry(folder, key).value_or("").size() > 1000);
}

RX_TEST(an_unwritable_cache_is_no_obstacle) {
  Settings settings = place().settings();
  settings.cache = "/proc/nowhere";
  CHECK(sums(*context(Place::wanted(), settings), 100, 0));
}

RX_TEST(the_profile) {
  set_profile(true);
  CHECK(sums(device(), 1000, 1));
  CHECK(sums(device(), 1000, 1));
  const auto report = rx::json::parse(profile_report(), "profile");
  set_profile(false);
  CHECK(sums(device(), 1000, 1));
  const auto& kernels = report.at("kernels").array();
  CHECK_EQUAL(kernels.size(), std::size_t{1});
  CHECK_EQUAL(kernels[0].at("family").string(), "add");
  CHECK_EQUAL(kernels[0].at("kernel").string(), "add");
  CHECK_EQUAL(kernels[0].at("device").string(), device().device().name);
  CHECK_EQUAL(kernels[0].at("launches").integer(), 4);
  CHECK_EQUAL(kernels[0].at("bytes").number(), 32000.0);
  CHECK_EQUAL(kernels[0].at("flops").number(), 4000.0);
  CHECK(kernels[0].at("seconds").number() > 0 && kernels[0].at("host_seconds").number() > 0);
  CHECK_EQUAL(report.at("transfers").at("up_bytes").number(), 8000.0);
  CHECK_EQUAL(report.at("transfers").at("down_bytes").number(), 8000.0);
  CHECK(profile_report() == rx::text(profile_report()));
  set_profile(true);
  CHECK(rx::json::parse(profile_report(), "profile").at("kernels").array().empty());
  set_profile(false);
}

RX_TEST(reports) {
  const auto all = rx::json::parse(devices_report(place().settings()), "devices");
  CHECK_EQUAL(all.at("error").string(), "");
  CHECK(!all.at("devices").array().empty());
  const auto& first = all.at("devices").array()[0];
  CHECK(first.at("units").integer() > 0 && first.at("memory").integer() > 0);
  Settings odd = place().settings();
  odd.libraries += ":/nowhere/\"\\\xFF.so";
  const auto tried = rx::json::parse(devices_report(odd), "devices").at("tried").array();
  CHECK_EQUAL(tried.back().at("library").string(), "/nowhere/\"\\?.so");
  const auto test = rx::json::parse(selftest_report(Place::wanted(), place().settings()), "test");
  CHECK_EQUAL(test.at("checks").array().size(), std::size_t{5});
  for (const auto& check : test.at("checks").array()) CHECK_EQUAL(check.at("error").string(), "");
  CHECK(test.at("seconds").number() < 2.0);
  const auto bad = rx::json::parse(selftest_report("opencl:9:9", place().settings()), "test");
  CHECK(bad.at("checks").array()[0].at("error").string().find("opencl:9:9") != std::string::npos);
}

int main() {
  return Place::none() ? rx::test::kSkipped : rx::test::run_all();
}
