// What a stream holds: it goes back to its context when the run has ended.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "opencl/context_state.h"

namespace rx::opencl {

struct Stream::State {
  State(Context& context, bool profiling);
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  struct Kernel {
    cl_kernel handle = nullptr;
    cl_uint arguments = 0;
  };
  struct Output {
    Buffer buffer;
    void* host;
    std::size_t bytes;
    bool wrapped;
  };
  // A command that is watched: for its outcome, and for the profile.
  struct Watched {
    cl_event event = nullptr;
    enum { kLaunch, kUp, kDown } what = kLaunch;
    std::string family;
    std::string kernel;
    Work work;
    double host_seconds = 0;
  };

  const Kernel& kernel(const Program& program, const Launch& launch);
  // Throws Error for what the driver answered.
  void check(cl_int code, const std::string& what);
  void bring(const Output& output);
  void unmap();
  void wait();
  void report();         // the watched commands to the profile
  void drop() noexcept;  // what a run leaves

  Context& context;
  Context::State& of;
  const Api& api;
  cl_command_queue queue = nullptr;
  bool profiling;
  bool pending = false;  // commands may be on their way
  bool broken = false;
  int unflushed = 0;
  std::shared_ptr<Shelf> shelf = std::make_shared<Shelf>();
  std::vector<Kernel> kernels;  // by id
  std::vector<Output> outputs;
  std::vector<std::pair<cl_mem, void*>> mapped;
  std::vector<Watched> watched;
  std::vector<std::function<void()>> checks;  // when all is done
};

}  // namespace rx::opencl
