// Opens OpenCL libraries at run time: the system's ICD loader, then libraries of vendors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "opencl/api.h"

namespace rx::opencl {

// What became of a library that was tried.
struct Tried {
  std::string library;
  bool found = false;
  std::string error;  // why not
};

struct Platform {
  const Api* api = nullptr;  // never freed
  cl_platform_id id = nullptr;
};

// The platforms of one library, opened once in a process and never closed. A vendor's library (one
// that offers clIcdGetPlatformIDsKHR) is used through its dispatch table, any other through the
// functions that it exports. Never throws for a library that is missing or is none: see `tried`.
struct Library {
  Tried tried;
  std::vector<Platform> platforms;
};
const Library& library(const std::string& path);

// The paths of `libraries` ("a.so:b.so"), without empty ones.
std::vector<std::string> paths_of(const std::string& libraries);

// The names under which the system's loader is tried, in order.
const std::vector<std::string>& loader_names();

// Throws where this process was forked from one that used OpenCL: drivers hang there.
void refuse_fork();
// The same question, for destructors.
bool forked() noexcept;

}  // namespace rx::opencl
