// What a family holds.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "opencl/context_state.h"
#include "opencl/descriptor.h"
#include "opencl/family.h"
#include "opencl/params.h"

namespace rx::opencl {

struct Family::State {
  State(Context::State& context, Descriptor about, std::vector<Tuned> tuned)
      : context(context), about(std::move(about)), tuned(std::move(tuned)) {}

  Context::State& context;
  const Descriptor about;
  const std::vector<Tuned> tuned;
  std::mutex guard;
  std::map<Values, std::shared_ptr<const Variant>> variants;
};

}  // namespace rx::opencl
