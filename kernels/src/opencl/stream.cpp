#include "opencl/stream.h"

#include <chrono>
#include <cstring>

#include "base/error.h"
#include "opencl/faults.h"
#include "opencl/loader.h"
#include "opencl/profile.h"
#include "opencl/stream_state.h"

namespace rx::opencl {
namespace {

using Clock = std::chrono::steady_clock;

// Below this a copy is cheaper than mapping (PoCL: 64 KiB take 25 us as copies, 30 us mapped; 1
// MiB 307 and 14).
constexpr std::size_t kWrapFrom = std::size_t{256} << 10;
// Drivers of cards start work at a flush; one for each launch would cost host time.
constexpr int kFlushEvery = 16;

bool wraps(const Device& device, const Tensor& tensor, std::size_t bytes) {
  // Drivers of GPUs use host memory in place only in whole pages.
  const std::size_t alignment = device.kind == Kind::kCpu ? device.alignment : 4096;
  return device.unified && bytes >= kWrapFrom &&
         reinterpret_cast<std::uintptr_t>(tensor.data) % alignment == 0;
}

}  // namespace

template <typename T>
void Argument::keep(const T& value) {
  std::memcpy(bytes_.data(), &value, sizeof value);
  size_ = sizeof value;
}

Argument::Argument(std::int32_t value) {
  keep(value);
}
Argument::Argument(std::int64_t value) {
  keep(value);
}
Argument::Argument(float value) {
  keep(value);
}
Argument::Argument(const Buffer& buffer) : valid_(buffer.valid()) {
  keep(buffer.memory());
}
Argument::Argument(const DeviceTensor& tensor) : Argument(tensor.buffer) {}

Stream::State::State(Context& context, bool profiling)
    : context(context), of(context.state()), api(*of.device.api), profiling(profiling) {
  cl_int code = kSuccess;
  queue = api.clCreateCommandQueue(of.handle.get(), of.device.id, profiling ? kQueueProfiling : 0,
                                   &code);
  check(code, "a command queue cannot be made");
}

Stream::State::~State() {
  if (forked()) return;
  drop();
  for (const Kernel& kernel : kernels)
    if (kernel.handle != nullptr) api.clReleaseKernel(kernel.handle);
  if (queue != nullptr) api.clReleaseCommandQueue(queue);
}

void Stream::State::check(cl_int code, const std::string& what) {
  if (code == kSuccess) return;
  broken = true;
  const std::string message = text(what, " on ", of.device.name, ": ", name_of(code));
  if (code != kMemoryAllocationFailure && code != kOutOfResources && code != kOutOfHostMemory)
    throw Error(Code::kFail, message);
  const PoolCounts now = of.pool->counts();
  throw Error(Code::kFail, text(message, "; ", now.in_use, " bytes are in use and ", now.kept,
                                " kept for reuse, the device has ", of.device.memory));
}

const Stream::State::Kernel& Stream::State::kernel(const Program& program, const Launch& launch) {
  if (kernels.size() <= launch.id) kernels.resize(launch.id + 1);
  Kernel& kernel = kernels[launch.id];
  if (kernel.handle == nullptr) {
    kernel.handle = program.kernel(launch.name);
    require(kernel.handle != nullptr, "its program has no kernel ", launch.name);
    check(api.clGetKernelInfo(kernel.handle, kKernelArguments, sizeof kernel.arguments,
                              &kernel.arguments, nullptr),
          "the kernel " + launch.name + " cannot be used");
  }
  return kernel;
}

void Stream::State::bring(const Output& output) {
  cl_int code = kSuccess;
  Watched one;
  one.what = Watched::kDown;
  one.work.bytes = static_cast<double>(output.bytes);
  if (output.wrapped) {
    void* at = nullptr;
    if (Faults::now(Point::kMap))
      code = kMapFailure;
    else
      at = api.clEnqueueMapBuffer(queue, output.buffer.memory(), kFalse, kMapRead, 0, output.bytes,
                                  0, nullptr, &one.event, &code);
    check(code, "an output cannot be mapped");
    mapped.emplace_back(output.buffer.memory(), at);
  } else {
    code = Faults::now(Point::kRead)
               ? kOutOfResources
               : api.clEnqueueReadBuffer(queue, output.buffer.memory(), kFalse, 0, output.bytes,
                                         output.host, 0, nullptr, &one.event);
    check(code, "an output cannot be read");
  }
  watched.push_back(std::move(one));
}

void Stream::State::unmap() {
  if (mapped.empty()) return;
  while (!mapped.empty()) {
    const auto [memory, at] = mapped.back();
    mapped.pop_back();
    check(api.clEnqueueUnmapMemObject(queue, memory, at, 0, nullptr, nullptr),
          "an output cannot be unmapped");
  }
  check(api.clFinish(queue), "an output cannot be unmapped");
}

void Stream::State::wait() {
  check(api.clFinish(queue), "commands failed");
  // clFinish does not say whether a command ended badly.
  for (const Watched& one : watched) {
    cl_int status = 0;
    check(api.clGetEventInfo(one.event, kEventStatus, sizeof status, &status, nullptr),
          "the outcome of a command is unknown");
    check(status < 0 ? status : kSuccess, "a command failed");
  }
}

void Stream::State::report() {
  if (!profiling) return;
  for (const Watched& one : watched) {
    cl_ulong start = 0;
    cl_ulong end = 0;
    api.clGetEventProfilingInfo(one.event, kProfilingStart, sizeof start, &start, nullptr);
    api.clGetEventProfilingInfo(one.event, kProfilingEnd, sizeof end, &end, nullptr);
    const double seconds = end > start ? static_cast<double>(end - start) * 1e-9 : 0.0;
    if (one.what == Watched::kLaunch)
      Profile::all().add(one.family, one.kernel, of.device.name,
                         {1, seconds, one.host_seconds, one.work.bytes, one.work.flops});
    else
      Profile::all().add_transfer(one.what == Watched::kUp, one.work.bytes, seconds);
  }
}

void Stream::State::drop() noexcept {
  for (const auto& [memory, at] : mapped)  // a failure came between
    api.clEnqueueUnmapMemObject(queue, memory, at, 0, nullptr, nullptr);
  mapped.clear();
  if (pending && queue != nullptr) api.clFinish(queue);
  pending = false;
  unflushed = 0;
  for (const Watched& one : watched) api.clReleaseEvent(one.event);
  watched.clear();
  outputs.clear();
  checks.clear();
  of.pool->give_back(shelf->drain());
}

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}

Stream::~Stream() {
  if (forked()) {
    state_.release();  // NOLINT: whatever it holds is the parent's
    return;
  }
  Context::State& of = state_->of;
  state_->drop();
  if (state_->broken) state_.reset();
  {
    const std::lock_guard<std::mutex> lock(of.streams_guard);
    --of.leased;
    if (state_ != nullptr) of.idle.push_back(std::move(state_));
  }
  of.returned.notify_one();
}

Context& Stream::context() const {
  return state_->context;
}

DeviceTensor Stream::input(const Tensor& tensor) {
  State& my = *state_;
  const std::size_t bytes = tensor.bytes();
  if (wraps(my.of.device, tensor, bytes))
    return {tensor.type, tensor.shape, my.of.pool->wrap(tensor.data, bytes, false)};
  DeviceTensor out = temporary(tensor.type, tensor.shape);
  write(out.buffer, tensor.data, bytes);
  return out;
}

void Stream::write(const Buffer& buffer, const void* host, std::size_t bytes) {
  State& my = *state_;
  require(bytes <= buffer.bytes(), bytes, " bytes do not go into a buffer of ", buffer.bytes());
  if (bytes == 0) return;
  State::Watched one;
  one.what = State::Watched::kUp;
  one.work.bytes = static_cast<double>(bytes);
  my.pending = true;
  my.check(Faults::now(Point::kWrite)
               ? kOutOfResources
               : my.api.clEnqueueWriteBuffer(my.queue, buffer.memory(), kFalse, 0, bytes, host, 0,
                                             nullptr, &one.event),
           "an input cannot be written");
  my.watched.push_back(std::move(one));
}

DeviceTensor Stream::output(const Tensor& tensor) {
  State& my = *state_;
  const std::size_t bytes = tensor.bytes();
  const bool wrapped = wraps(my.of.device, tensor, bytes);
  DeviceTensor out{
      tensor.type, tensor.shape,
      wrapped ? my.of.pool->wrap(tensor.data, bytes, true) : my.of.pool->take(bytes, my.shelf)};
  if (bytes > 0) my.outputs.push_back({out.buffer, tensor.data, bytes, wrapped});
  return out;
}

DeviceTensor Stream::temporary(Type type, const Shape& shape) {
  const std::int64_t count = elements(shape);
  require(count <= std::int64_t{1} << 58, "the shape ", text_of(shape), " has too many elements");
  return {type, shape, temporary(static_cast<std::size_t>(count) * size_of(type))};
}

Buffer Stream::temporary(std::size_t bytes) {
  return state_->of.pool->take(bytes, state_->shelf);
}

void Stream::enqueue(const Plan& plan, const char* kernel, Work work,
                     Span<const Argument> arguments) {
  refuse_fork();
  State& my = *state_;
  const auto start = my.profiling ? Clock::now() : Clock::time_point();
  const Launch& launch = plan.state().launch(kernel);
  require(launch.error.empty(), plan.state().family, ": ", launch.error);
  if (launch.empty) return;
  const State::Kernel& own = my.kernel(*plan.state().program, launch);
  require(own.arguments == arguments.size(), "the kernel ", kernel, " has ", own.arguments,
          " arguments, not ", arguments.size());
  for (cl_uint i = 0; i < own.arguments; ++i) {
    require(arguments[i].valid(), "argument ", i, " of the kernel ", kernel, " is no buffer");
    const cl_int code =
        my.api.clSetKernelArg(own.handle, i, arguments[i].size(), arguments[i].data());
    if (code != kSuccess) my.check(code, text("argument ", i, " of the kernel ", kernel));
  }
  cl_event event = nullptr;
  my.pending = true;
  const cl_int code = Faults::now(Point::kEnqueue)
                          ? kOutOfResources
                          : my.api.clEnqueueNDRangeKernel(
                                my.queue, own.handle, 3, nullptr, launch.global.data(),
                                launch.local.data(), 0, nullptr, my.profiling ? &event : nullptr);
  if (code != kSuccess) my.check(code, text("the kernel ", kernel, " cannot be launched"));
  if (++my.unflushed == 1 || my.unflushed % kFlushEvery == 0) my.api.clFlush(my.queue);
  if (!my.profiling) return;
  const double host = std::chrono::duration<double>(Clock::now() - start).count();
  my.watched.push_back(
      {event, State::Watched::kLaunch, plan.state().family, launch.name, work, host});
}

void Stream::then(std::function<void()> check) {
  state_->checks.push_back(std::move(check));
}

void Stream::finish() {
  refuse_fork();
  State& my = *state_;
  my.pending = true;
  for (const State::Output& output : my.outputs) my.bring(output);
  my.wait();
  my.unmap();
  my.pending = false;
  my.report();
  const std::vector<std::function<void()>> checks = std::move(my.checks);
  my.drop();
  for (const std::function<void()>& check : checks) check();
}

}  // namespace rx::opencl
