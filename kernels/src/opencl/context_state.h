// What a context holds.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "opencl/context.h"
#include "opencl/plan.h"
#include "opencl/pool.h"
#include "opencl/programs.h"

namespace rx::opencl {

class ContextHandle {
 public:
  explicit ContextHandle(const Device& device);  // throws Error
  ~ContextHandle();
  ContextHandle(const ContextHandle&) = delete;
  ContextHandle& operator=(const ContextHandle&) = delete;
  cl_context get() const { return handle_; }

 private:
  const Api& api_;
  cl_context handle_;
};

struct Context::State {
  State(const Device& chosen, const Settings& settings);

  // One number for each kernel of each program, from 0, so that a stream finds its own by index.
  std::size_t kernel_id(const Program* program, const std::string& name);

  Device device;
  Settings settings;
  ContextHandle handle;
  std::unique_ptr<Pool> pool;
  std::unique_ptr<Programs> programs;
  Buffer unused;

  std::mutex families_guard;
  std::map<std::string, std::unique_ptr<Family>> families;
  std::mutex ids_guard;
  std::map<std::pair<const Program*, std::string>, std::size_t> ids;

  std::mutex streams_guard;
  std::condition_variable returned;
  std::vector<std::unique_ptr<Stream::State>> idle;
  std::size_t leased = 0;
};

}  // namespace rx::opencl
