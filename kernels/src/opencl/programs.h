// Compiled programs: built once, kept in memory and on disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "opencl/api.h"
#include "opencl/device.h"

namespace rx::opencl {

// A built program; lives as long as its context. Thread-safe.
class Program {
 public:
  Program(const Api& api, cl_program program) : api_(api), program_(program) {}
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // A kernel of its own, since arguments are state of the kernel; null where there is none of that
  // name. The caller releases it.
  cl_kernel kernel(const std::string& name) const;
  cl_program get() const { return program_; }

 private:
  const Api& api_;
  cl_program program_;
};

class Programs {
 public:
  // `folder`: of the cache on disk; empty: none.
  Programs(const Device& device, cl_context context, std::string folder);

  // The program of `source` (includes expanded) under `options`; `label` stands in messages.
  // Threads that ask for the same program wait for the one that builds it. Throws Error with the
  // device, the options and the first lines of the compiler's log; the next call tries again.
  std::shared_ptr<const Program> get(const std::string& label, const std::string& source,
                                     const std::string& options);

 private:
  using Shared = std::shared_ptr<const Program>;

  Shared made(const std::string& label, const std::string& source, const std::string& options);
  Shared built(const std::string& label, const std::string& source, const std::string& options);
  Shared from_binary(const std::string& binary, const std::string& options);
  std::string binary_of(const Program& program) const;
  std::string log_of(cl_program program) const;
  std::string key_of(const std::string& source, const std::string& options) const;

  const Device& device_;
  cl_context context_;
  std::string folder_;
  std::mutex guard_;
  std::map<std::pair<std::string, std::string>, std::shared_future<Shared>> programs_;
};

}  // namespace rx::opencl
