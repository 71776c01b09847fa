#include "opencl/context.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <tuple>

#include "base/error.h"
#include "opencl/context_state.h"
#include "opencl/family_state.h"
#include "opencl/faults.h"
#include "opencl/loader.h"
#include "opencl/profile.h"
#include "opencl/stream_state.h"

namespace rx::opencl {
namespace {

constexpr std::size_t kMostStreams = 16;
constexpr std::intptr_t kContextPlatform = 0x1084;
constexpr std::uint64_t kMostKept = std::uint64_t{1} << 30;  // bytes, and a sixteenth of the device
constexpr std::size_t kConstantInPlace = std::size_t{64} << 10;

std::string environment(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

std::string default_cache() {
  const std::string own = environment("XDG_CACHE_HOME", "");
  const std::string home = environment("HOME", "");
  if (!own.empty()) return own + "/onnxslim-rx/programs";
  return home.empty() ? "" : home + "/.cache/onnxslim-rx/programs";
}

// The folder of the file that holds this code.
std::string own_folder() {
  Dl_info about{};
  if (dladdr(reinterpret_cast<const void*>(&default_settings), &about) == 0) return ".";
  const std::string path = about.dli_fname != nullptr ? about.dli_fname : "";
  const std::size_t slash = path.rfind('/');
  return slash == path.npos ? "." : path.substr(0, slash);
}

}  // namespace

Settings default_settings() {
  return {environment("ONNXSLIM_RX_OPENCL", ""),
          environment("ONNXSLIM_RX_PROGRAMS", default_cache()),
          environment("ONNXSLIM_RX_PARAMS", ""), own_folder()};
}

ContextHandle::ContextHandle(const Device& device) : api_(*device.api) {
  const std::intptr_t properties[] = {kContextPlatform,
                                      reinterpret_cast<std::intptr_t>(device.platform), 0};
  cl_int code = kSuccess;
  handle_ = api_.clCreateContext(properties, 1, &device.id, nullptr, nullptr, &code);
  if (code != kSuccess)
    throw Error(Code::kFail,
                text("no OpenCL context can be made on ", device.name, ": ", name_of(code)));
}

ContextHandle::~ContextHandle() {
  if (!forked()) api_.clReleaseContext(handle_);
}

Context::State::State(const Device& chosen, const Settings& settings)
    : device(chosen), settings(settings), handle(device) {
  pool = std::make_unique<Pool>(device, handle.get(),
                                static_cast<std::size_t>(std::min(device.memory / 16, kMostKept)));
  programs = std::make_unique<Programs>(device, handle.get(), settings.cache);
  unused = pool->exact(256);
}

std::size_t Context::State::kernel_id(const Program* program, const std::string& name) {
  const std::lock_guard<std::mutex> lock(ids_guard);
  return ids.emplace(std::make_pair(program, name), ids.size()).first->second;
}

Context::Context(std::unique_ptr<State> state) : state_(std::move(state)) {}
Context::~Context() = default;

const Device& Context::device() const {
  return state_->device;
}
const Settings& Context::settings() const {
  return state_->settings;
}
const Buffer& Context::unused() const {
  return state_->unused;
}
PoolCounts Context::memory() const {
  return state_->pool->counts();
}

std::unique_ptr<Stream> Context::stream() {
  refuse_fork();
  State& my = *state_;
  const bool profiling = Profile::all().on();
  std::unique_ptr<Stream::State> found;
  {
    std::unique_lock<std::mutex> lock(my.streams_guard);
    my.returned.wait(lock, [&] { return my.leased < kMostStreams; });
    ++my.leased;
    const auto fits = std::find_if(my.idle.begin(), my.idle.end(),
                                   [&](const auto& one) { return one->profiling == profiling; });
    if (fits != my.idle.end()) {
      found = std::move(*fits);
      my.idle.erase(fits);
    }
  }
  try {
    if (found == nullptr) found = std::make_unique<Stream::State>(*this, profiling);
    return std::make_unique<Stream>(std::move(found));
  } catch (...) {
    {
      const std::lock_guard<std::mutex> lock(my.streams_guard);
      --my.leased;
    }
    my.returned.notify_one();
    throw;
  }
}

DeviceTensor Context::constant(const Tensor& tensor) {
  refuse_fork();
  const Device& device = state_->device;
  const std::size_t bytes = tensor.bytes();
  if (device.kind == Kind::kCpu && bytes >= kConstantInPlace &&
      reinterpret_cast<std::uintptr_t>(tensor.data) % device.alignment == 0)
    return {tensor.type, tensor.shape, state_->pool->wrap(tensor.data, bytes, false)};
  DeviceTensor out{tensor.type, tensor.shape, state_->pool->exact(bytes)};
  if (bytes == 0) return out;
  const auto own = stream();
  own->write(out.buffer, tensor.data, bytes);
  own->finish();
  return out;
}

const Family& Context::family(const std::string& name) {
  const std::lock_guard<std::mutex> lock(state_->families_guard);
  auto& family = state_->families[name];
  if (family == nullptr) {
    const Settings& from = state_->settings;
    Descriptor about = read_descriptor(from.kernels + "/cl", name);
    auto tuned = tuned_for(state_->device, about, {from.kernels + "/params", from.params});
    family.reset(
        new Family(std::make_unique<Family::State>(*state_, std::move(about), std::move(tuned))));
  }
  return *family;
}

Context* context(const std::string& specification, const Settings& settings) {
  if (specification == "cpu") return nullptr;
  refuse_fork();
  Device device;
  if (!choose(specification, settings.libraries, device)) return nullptr;
  using Key = std::tuple<cl_device_id, std::string, std::string, std::string>;
  static auto* guard = new std::mutex;
  static auto* all = new std::map<Key, Context*>;
  const std::lock_guard<std::mutex> lock(*guard);
  Context*& one = (*all)[{device.id, settings.cache, settings.params, settings.kernels}];
  if (one == nullptr) one = new Context(std::make_unique<Context::State>(device, settings));
  return one;
}

}  // namespace rx::opencl
