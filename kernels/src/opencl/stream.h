// A queue of commands that one run uses alone, in order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/span.h"
#include "base/tensor.h"
#include "opencl/api.h"
#include "opencl/family.h"
#include "opencl/pool.h"

namespace rx::opencl {

class Context;

// An argument of a kernel: int, long, float or a buffer.
class Argument {
 public:
  Argument(std::int32_t value);          // NOLINT(runtime/explicit)
  Argument(std::int64_t value);          // NOLINT(runtime/explicit)
  Argument(float value);                 // NOLINT(runtime/explicit)
  Argument(const Buffer& buffer);        // NOLINT(runtime/explicit)
  Argument(const DeviceTensor& tensor);  // NOLINT(runtime/explicit)
  Argument(bool) = delete;
  Argument(double) = delete;
  Argument(std::size_t) = delete;

  const void* data() const { return bytes_.data(); }
  std::size_t size() const { return size_; }
  bool valid() const { return valid_; }  // false: an invalid buffer

 private:
  template <typename T>
  void keep(const T& value);

  alignas(8) std::array<unsigned char, 8> bytes_{};
  std::size_t size_ = 0;
  bool valid_ = true;
};

// What a launch does, for the profile.
struct Work {
  double bytes = 0;  // moved from and to device memory, at least
  double flops = 0;
};

// Commands run in the order given; nothing blocks before finish(). One thread at a time. A stream
// that dies without finish() waits for its commands, so that host memory may be freed.
class Stream {
 public:
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Context& context() const;

  // The tensor on the device; its host memory must stay until finish(). Devices that share the
  // host's memory use it in place where it is large and aligned, others get a copy.
  DeviceTensor input(const Tensor& tensor);
  // Copies host memory, which must stay until finish(), into a buffer.
  void write(const Buffer& buffer, const void* host, std::size_t bytes);
  // A tensor whose contents finish() brings to `tensor`'s host memory.
  DeviceTensor output(const Tensor& tensor);
  // Memory without contents. Once the last handle is gone the stream's next tensor may use it,
  // also while commands that use it are on their way: they run in order. Workspaces too.
  DeviceTensor temporary(Type type, const Shape& shape);
  Buffer temporary(std::size_t bytes);

  // Enqueues `kernel` of the plan; arguments in the kernel's order. A launch without work-items
  // does nothing. Throws Error.
  template <typename... Arguments>
  void launch(const Plan& plan, const char* kernel, Work work, const Arguments&... arguments) {
    const std::array<Argument, sizeof...(Arguments)> all{Argument(arguments)...};
    enqueue(plan, kernel, work, Span<const Argument>(all.data(), all.size()));
  }
  void enqueue(const Plan& plan, const char* kernel, Work work, Span<const Argument> arguments);

  // Is called by finish() when every output is in host memory; may throw Error.
  void then(std::function<void()> check);

  // Waits until every command has ended and every output is in host memory. Throws Error.
  void finish();

  struct State;
  explicit Stream(std::unique_ptr<State> state);

 private:
  std::unique_ptr<State> state_;
};

}  // namespace rx::opencl
