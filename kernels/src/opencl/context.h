// A device in use: its memory, programs, families of kernels and queues.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/tensor.h"
#include "opencl/device.h"
#include "opencl/family.h"
#include "opencl/pool.h"
#include "opencl/stream.h"

namespace rx::opencl {

struct Settings {
  std::string libraries;  // further OpenCL libraries, ':' between them
  std::string cache;      // folder of compiled programs; empty: none
  std::string params;     // further folder of tuned parameters; empty: none
  std::string kernels;    // folder that holds cl/ and params/
};
// ONNXSLIM_RX_OPENCL, ONNXSLIM_RX_PROGRAMS, ONNXSLIM_RX_PARAMS, or their defaults; `kernels` is the
// folder of this library's file.
Settings default_settings();

// Made once for each device and settings, and never freed: drivers fail at exit otherwise.
// Thread-safe.
class Context {
 public:
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Device& device() const;
  const Settings& settings() const;

  // A queue for one run, from a bounded set: waits while all are in use. A thread that holds one
  // must not ask for another.
  std::unique_ptr<Stream> stream();

  // A copy of a constant in device memory, or the constant's own memory where the device shares
  // the host's: that memory must then live as long as the handle. Throws Error when the device is
  // out of memory.
  DeviceTensor constant(const Tensor& tensor);
  // A small buffer for arguments that a kernel does not read.
  const Buffer& unused() const;

  // The family of that name (cl/NAME.json). Throws Error where there is none or it is malformed.
  const Family& family(const std::string& name);

  PoolCounts memory() const;

  struct State;
  State& state() { return *state_; }

 private:
  friend Context* context(const std::string& specification, const Settings& settings);
  explicit Context(std::unique_ptr<State> state);
  ~Context();
  std::unique_ptr<State> state_;
};

// The context of the device that `specification` names (device.h: choose); null: the CPU without
// OpenCL. Throws Error.
Context* context(const std::string& specification, const Settings& settings);

}  // namespace rx::opencl
