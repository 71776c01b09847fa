#include "opencl/programs.h"

#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "opencl/faults.h"
#include "opencl/loader.h"
#include "opencl/program_cache.h"

namespace rx::opencl {
namespace {

std::string first_lines(const std::string& log) {
  constexpr int kLines = 20;
  constexpr std::size_t kMost = 4000;  // bytes: a line may be long
  std::size_t end = 0;
  for (int line = 0; line < kLines && end < log.size(); ++line)
    end = std::min(log.find('\n', end), log.size() - 1) + 1;
  return log.substr(0, std::min(end, kMost));
}

}  // namespace

Program::~Program() {
  if (!forked()) api_.clReleaseProgram(program_);
}

cl_kernel Program::kernel(const std::string& name) const {
  cl_int code = kSuccess;
  const cl_kernel kernel = api_.clCreateKernel(program_, name.c_str(), &code);
  if (code == kInvalidKernelName) return nullptr;
  if (code != kSuccess)
    throw Error(Code::kFail, text("the kernel ", name, " cannot be made: ", name_of(code)));
  return kernel;
}

Programs::Programs(const Device& device, cl_context context, std::string folder)
    : device_(device), context_(context), folder_(std::move(folder)) {}

Programs::Shared Programs::get(const std::string& label, const std::string& source,
                               const std::string& options) {
  const auto key = std::make_pair(options, source);
  std::promise<Shared> promise;
  std::shared_future<Shared> future;
  bool mine = false;
  {
    const std::lock_guard<std::mutex> lock(guard_);
    const auto found = programs_.find(key);
    mine = found == programs_.end();
    future = mine ? promise.get_future().share() : found->second;
    if (mine) programs_.emplace(key, future);
  }
  if (!mine) return future.get();
  try {
    promise.set_value(made(label, source, options));
  } catch (...) {
    {
      const std::lock_guard<std::mutex> lock(guard_);
      programs_.erase(key);
    }
    promise.set_exception(std::current_exception());
  }
  return future.get();
}

Programs::Shared Programs::made(const std::string& label, const std::string& source,
                                const std::string& options) {
  if (Faults::now(Point::kBuild))
    throw Error(Code::kFail, text(label, " cannot be built for ", device_.name, ": ",
                                  name_of(kBuildProgramFailure), ", options ", options));
  if (folder_.empty()) return built(label, source, options);
  const std::string key = key_of(source, options);
  if (const auto binary = read_entry(folder_, key)) {
    if (Shared program = from_binary(*binary, options)) return program;
    note(label + ": the driver refuses its kept program, which is built again");
  }
  Shared program = built(label, source, options);
  const std::string binary = binary_of(*program);
  if (!binary.empty()) write_entry(folder_, key, binary);
  return program;
}

Programs::Shared Programs::built(const std::string& label, const std::string& source,
                                 const std::string& options) {
  const Api& api = *device_.api;
  const char* start = source.data();
  const std::size_t size = source.size();
  cl_int code = kSuccess;
  const cl_program handle = api.clCreateProgramWithSource(context_, 1, &start, &size, &code);
  if (code != kSuccess)
    throw Error(Code::kFail,
                text(label, " cannot be given to ", device_.name, ": ", name_of(code)));
  auto program = std::make_shared<const Program>(api, handle);
  code = api.clBuildProgram(handle, 1, &device_.id, options.c_str(), nullptr, nullptr);
  if (code != kSuccess)
    throw Error(Code::kFail, text(label, " cannot be built for ", device_.name, " (",
                                  device_.driver, "): ", name_of(code), ", options ", options, "\n",
                                  first_lines(log_of(handle))));
  return program;
}

// Null where the driver does not take it.
Programs::Shared Programs::from_binary(const std::string& binary, const std::string& options) {
  const Api& api = *device_.api;
  const std::size_t size = binary.size();
  const auto* data = reinterpret_cast<const unsigned char*>(binary.data());
  cl_int status = kSuccess;
  cl_int code = kSuccess;
  const cl_program handle =
      api.clCreateProgramWithBinary(context_, 1, &device_.id, &size, &data, &status, &code);
  if (code != kSuccess) return nullptr;
  auto program = std::make_shared<const Program>(api, handle);
  if (status != kSuccess) return nullptr;
  code = api.clBuildProgram(handle, 1, &device_.id, options.c_str(), nullptr, nullptr);
  return code == kSuccess ? program : nullptr;
}

std::string Programs::binary_of(const Program& program) const {
  const Api& api = *device_.api;
  std::size_t size = 0;
  if (api.clGetProgramInfo(program.get(), kProgramBinarySizes, sizeof size, &size, nullptr) !=
          kSuccess ||
      size == 0)
    return "";
  std::string binary(size, '\0');
  char* data = binary.data();
  const cl_int code =
      api.clGetProgramInfo(program.get(), kProgramBinaries, sizeof data, &data, nullptr);
  return code == kSuccess ? binary : "";
}

std::string Programs::log_of(cl_program program) const {
  const Api& api = *device_.api;
  std::size_t size = 0;
  api.clGetProgramBuildInfo(program, device_.id, kProgramBuildLog, 0, nullptr, &size);
  std::string log(size, '\0');
  if (size > 0)
    api.clGetProgramBuildInfo(program, device_.id, kProgramBuildLog, size, log.data(), nullptr);
  return log.c_str();
}

// All that decides what the compiler makes of a source.
std::string Programs::key_of(const std::string& source, const std::string& options) const {
  const char end = '\n';
  return text(device_.name, end, device_.vendor, end, device_.driver, end, device_.opencl, end,
              device_.platform_version, end, options, end, source);
}

}  // namespace rx::opencl
