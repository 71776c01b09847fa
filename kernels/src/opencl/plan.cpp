#include "opencl/plan.h"

#include <algorithm>

#include "base/error.h"

namespace rx::opencl {

const Launch& Plan::State::launch(const char* name) const {
  for (const Launch& one : launches)
    if (one.name == name) return one;
  refuse("the family ", family, " has no kernel ", name);
}

Plan::Plan(std::unique_ptr<const State> state) : state_(std::move(state)) {}
Plan::~Plan() = default;

std::int64_t Plan::value(const std::string& name) const {
  const auto found = std::find(state_->names.begin(), state_->names.end(), name);
  require(found != state_->names.end(), "the family ", state_->family, " has no value ", name);
  return state_->values[static_cast<std::size_t>(found - state_->names.begin())];
}

bool Plan::needs(const std::string& kernel) const {
  return state_->launch(kernel.c_str()).needed;
}

}  // namespace rx::opencl
