// What a plan holds.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "opencl/family.h"
#include "opencl/programs.h"

namespace rx::opencl {

// One kernel of a plan.
struct Launch {
  std::string name;
  std::size_t id = 0;  // of (program, name) in its context
  std::array<std::size_t, 3> global{};
  std::array<std::size_t, 3> local{};
  bool needed = true;
  bool empty = false;  // no work-items
  std::string error;   // why these sizes cannot be launched
};

struct Plan::State {
  std::string family;
  std::vector<std::string> names;
  std::vector<std::int64_t> values;
  std::shared_ptr<const Program> program;
  std::vector<Launch> launches;

  const Launch& launch(const char* name) const;  // throws Error where there is none
};

}  // namespace rx::opencl
