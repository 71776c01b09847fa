#include "opencl/loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <mutex>

#include "base/error.h"

namespace rx::opencl {
namespace {

using GetPlatforms = cl_int (*)(cl_uint, cl_platform_id*, cl_uint*);
using GetAddress = void* (*)(const char*);

std::atomic<pid_t> g_owner{0};  // the process that first found a platform

template <typename Function>
Function symbol(void* handle, const char* name) {
  return reinterpret_cast<Function>(dlsym(handle, name));
}

// How a vendor's library gives its platforms; null: it is no vendor's library. A loader answers
// clGetExtensionFunctionAddress too, but with the function of some vendor: it is asked only where
// clGetPlatformIDs is missing.
GetPlatforms vendor_entry(void* handle) {
  if (auto direct = symbol<GetPlatforms>(handle, "clIcdGetPlatformIDsKHR")) return direct;
  if (dlsym(handle, "clGetPlatformIDs") != nullptr) return nullptr;
  const auto address = symbol<GetAddress>(handle, "clGetExtensionFunctionAddress");
  return address == nullptr ? nullptr
                            : reinterpret_cast<GetPlatforms>(address("clIcdGetPlatformIDsKHR"));
}

const Api* exported_api(void* handle) {
  auto api = std::make_unique<Api>();
#define RX_OPENCL_FILL(index, name, result, arguments)    \
  api->name = symbol<result(*) arguments>(handle, #name); \
  if (api->name == nullptr) return nullptr;
  RX_OPENCL_FUNCTIONS(RX_OPENCL_FILL)
#undef RX_OPENCL_FILL
  return api.release();
}

// The first member of the platform is the table of its driver.
const Api* dispatched_api(cl_platform_id platform) {
  if (platform == nullptr || platform->dispatch == nullptr) return nullptr;
  auto api = std::make_unique<Api>();
#define RX_OPENCL_FILL(index, name, result, arguments)                          \
  api->name = reinterpret_cast<result(*) arguments>(platform->dispatch[index]); \
  if (api->name == nullptr) return nullptr;
  RX_OPENCL_FUNCTIONS(RX_OPENCL_FILL)
#undef RX_OPENCL_FILL
  return api.release();
}

std::vector<cl_platform_id> platform_ids(GetPlatforms get, std::string& error) {
  cl_uint count = 0;
  cl_int code = get(0, nullptr, &count);
  std::vector<cl_platform_id> ids(code == kSuccess ? count : 0);
  if (!ids.empty()) code = get(count, ids.data(), &count);
  if (code != kSuccess || ids.empty())
    error = code == kSuccess || code == kPlatformNotFound ? "it has no platform" : name_of(code);
  return code == kSuccess ? ids : std::vector<cl_platform_id>();
}

std::unique_ptr<Library> opened(const std::string& path) {
  auto library = std::make_unique<Library>();
  Tried& tried = library->tried;
  tried.library = path;
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    tried.error = why != nullptr ? why : "it cannot be opened";
    return library;
  }
  const GetPlatforms vendor = vendor_entry(handle);
  const Api* api = vendor == nullptr ? exported_api(handle) : nullptr;
  if (vendor == nullptr && api == nullptr) {
    tried.error = "it is no OpenCL library: functions of OpenCL 1.2 are missing";
    return library;
  }
  for (const cl_platform_id id :
       platform_ids(vendor ? vendor : api->clGetPlatformIDs, tried.error)) {
    const Api* table = vendor ? dispatched_api(id) : api;
    if (table == nullptr)
      tried.error = "the dispatch table of a platform lacks functions of OpenCL 1.2";
    else
      library->platforms.push_back({table, id});
  }
  tried.found = !library->platforms.empty();
  return library;
}

}  // namespace

const Library& library(const std::string& path) {
  refuse_fork();
  // Never destroyed: drivers run threads of their own until the process ends.
  static auto* guard = new std::mutex;
  static auto* all = new std::map<std::string, std::unique_ptr<Library>>;
  const std::lock_guard<std::mutex> lock(*guard);
  auto& slot = (*all)[path];
  if (slot == nullptr || !slot->tried.found) {  // a library may be installed meanwhile
    auto fresh = opened(path);
    pid_t none = 0;  // a process that found nothing may fork as it likes
    if (fresh->tried.found) g_owner.compare_exchange_strong(none, getpid());
    if (slot == nullptr || fresh->tried.found) slot = std::move(fresh);
  }
  return *slot;
}

std::vector<std::string> paths_of(const std::string& libraries) {
  std::vector<std::string> out;
  for (std::size_t start = 0; start <= libraries.size();) {
    const std::size_t end = std::min(libraries.find(':', start), libraries.size());
    if (end > start) out.push_back(libraries.substr(start, end - start));
    start = end + 1;
  }
  return out;
}

const std::vector<std::string>& loader_names() {
  static const auto* names = new std::vector<std::string>{"libOpenCL.so.1", "libOpenCL.so"};
  return *names;
}

bool forked() noexcept {
  const pid_t owner = g_owner.load(std::memory_order_relaxed);
  return owner != 0 && owner != getpid();
}

void refuse_fork() {
  if (forked())
    throw Error(Code::kFail,
                "this process was forked from one that used OpenCL, where drivers hang: start "
                "processes with 'spawn', or create the session after the fork");
}

const char* name_of(cl_int code) {
  switch (code) {
#define RX_OPENCL_CODE(value, name) \
  case value:                       \
    return name " (" #value ")";
    RX_OPENCL_CODE(0, "CL_SUCCESS")
    RX_OPENCL_CODE(-1, "CL_DEVICE_NOT_FOUND")
    RX_OPENCL_CODE(-2, "CL_DEVICE_NOT_AVAILABLE")
    RX_OPENCL_CODE(-3, "CL_COMPILER_NOT_AVAILABLE")
    RX_OPENCL_CODE(-4, "CL_MEM_OBJECT_ALLOCATION_FAILURE")
    RX_OPENCL_CODE(-5, "CL_OUT_OF_RESOURCES")
    RX_OPENCL_CODE(-6, "CL_OUT_OF_HOST_MEMORY")
    RX_OPENCL_CODE(-7, "CL_PROFILING_INFO_NOT_AVAILABLE")
    RX_OPENCL_CODE(-11, "CL_BUILD_PROGRAM_FAILURE")
    RX_OPENCL_CODE(-12, "CL_MAP_FAILURE")
    RX_OPENCL_CODE(-13, "CL_MISALIGNED_SUB_BUFFER_OFFSET")
    RX_OPENCL_CODE(-14, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST")
    RX_OPENCL_CODE(-30, "CL_INVALID_VALUE")
    RX_OPENCL_CODE(-32, "CL_INVALID_PLATFORM")
    RX_OPENCL_CODE(-33, "CL_INVALID_DEVICE")
    RX_OPENCL_CODE(-34, "CL_INVALID_CONTEXT")
    RX_OPENCL_CODE(-36, "CL_INVALID_COMMAND_QUEUE")
    RX_OPENCL_CODE(-37, "CL_INVALID_HOST_PTR")
    RX_OPENCL_CODE(-38, "CL_INVALID_MEM_OBJECT")
    RX_OPENCL_CODE(-42, "CL_INVALID_BINARY")
    RX_OPENCL_CODE(-43, "CL_INVALID_BUILD_OPTIONS")
    RX_OPENCL_CODE(-44, "CL_INVALID_PROGRAM")
    RX_OPENCL_CODE(-45, "CL_INVALID_PROGRAM_EXECUTABLE")
    RX_OPENCL_CODE(-46, "CL_INVALID_KERNEL_NAME")
    RX_OPENCL_CODE(-48, "CL_INVALID_KERNEL")
    RX_OPENCL_CODE(-49, "CL_INVALID_ARG_INDEX")
    RX_OPENCL_CODE(-50, "CL_INVALID_ARG_VALUE")
    RX_OPENCL_CODE(-51, "CL_INVALID_ARG_SIZE")
    RX_OPENCL_CODE(-52, "CL_INVALID_KERNEL_ARGS")
    RX_OPENCL_CODE(-53, "CL_INVALID_WORK_DIMENSION")
    RX_OPENCL_CODE(-54, "CL_INVALID_WORK_GROUP_SIZE")
    RX_OPENCL_CODE(-55, "CL_INVALID_WORK_ITEM_SIZE")
    RX_OPENCL_CODE(-56, "CL_INVALID_GLOBAL_OFFSET")
    RX_OPENCL_CODE(-58, "CL_INVALID_EVENT")
    RX_OPENCL_CODE(-59, "CL_INVALID_OPERATION")
    RX_OPENCL_CODE(-61, "CL_INVALID_BUFFER_SIZE")
    RX_OPENCL_CODE(-63, "CL_INVALID_GLOBAL_WORK_SIZE")
    RX_OPENCL_CODE(-1001, "CL_PLATFORM_NOT_FOUND_KHR")
#undef RX_OPENCL_CODE
    default:
      return "an OpenCL error of a driver's own";
  }
}

}  // namespace rx::opencl
