#include "opencl/family.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "base/error.h"
#include "opencl/choice.h"
#include "opencl/context_state.h"
#include "opencl/family_state.h"
#include "opencl/loader.h"

namespace rx::opencl {
namespace {

using Row = Descriptor::Row;

constexpr std::size_t kMostPlans = 512;  // of a variant: shapes may be new in every run
constexpr std::int64_t kMostItems = (std::int64_t{1} << 31) - 1;  // by axis: kernels count in int

struct RowHash {
  std::size_t operator()(const Row& row) const {
    std::size_t hash = row.size();
    for (const std::int64_t value : row)
      hash = (hash ^ static_cast<std::size_t>(value)) * 0x9E3779B97F4A7C15 + (hash >> 29);
    return hash;
  }
};

}  // namespace

struct Variant::State {
  explicit State(Family::State& family) : family(family) {}

  Row start(Span<const std::int64_t> sizes) const;
  std::shared_ptr<const Plan> made(const Row& sizes) const;
  Launch launch(const KernelShape& shape, const Row& row, const Program* program) const;
  std::size_t most_items(const Program& program, const Row& row) const;

  Family::State& family;
  Row options;              // values by place
  std::vector<bool> given;  // by the caller
  mutable std::mutex guard;
  mutable std::unordered_map<Row, std::shared_ptr<const Plan>, RowHash> plans;
};

// Sizes and options; parameters are still open.
Row Variant::State::start(Span<const std::int64_t> sizes) const {
  const Descriptor& about = family.about;
  require(sizes.size() == about.sizes, "the family ", about.family, " has ", about.sizes,
          " sizes, not ", sizes.size());
  Row row(about.names.size(), 0);
  std::copy(sizes.begin(), sizes.end(), row.begin());
  std::copy(options.begin(), options.end(),
            row.begin() + static_cast<std::ptrdiff_t>(about.first_option()));
  for (const FromSizes& one : about.from_sizes) {
    const std::size_t which = one.place - about.first_option();
    if (given[which]) continue;
    const Setting& option = about.options[which];
    row[one.place] = one.value.evaluate(row);
    require(std::count(option.values.begin(), option.values.end(), row[one.place]) != 0,
            about.family, ": ", row[one.place], " is no value of the option ", option.name);
  }
  return row;
}

Launch Variant::State::launch(const KernelShape& shape, const Row& row,
                              const Program* program) const {
  Launch out;
  out.name = shape.name;
  out.id = family.context.kernel_id(program, shape.name);
  try {
    out.needed = shape.when.evaluate(row) != 0;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const std::int64_t global = shape.global[axis].evaluate(row);
      const std::int64_t local = shape.local[axis].evaluate(row);
      require(global >= 0 && global <= kMostItems, shape.name, " would need ", global,
              " work-items on axis ", axis, ", at most ", kMostItems, " are possible");
      require(local >= 1 && global % local == 0, shape.name, ": ", global,
              " work-items are no multiple of a group's ", local);
      out.global[axis] = static_cast<std::size_t>(global);
      out.local[axis] = static_cast<std::size_t>(local);
      out.empty = out.empty || global == 0;
    }
  } catch (const Error& error) {
    out.error = error.what();
  }
  return out;
}

// Work-items of a group that every kernel of the program runs with, where one runs with fewer than
// its geometry wants (it may need many registers); else the device's limit.
std::size_t Variant::State::most_items(const Program& program, const Row& row) const {
  const Device& device = family.context.device;
  std::size_t most = device.work_group;
  for (const KernelShape& shape : family.about.kernels) {
    const cl_kernel kernel = program.kernel(shape.name);
    if (kernel == nullptr) continue;
    std::size_t limit = device.work_group;
    device.api->clGetKernelWorkGroupInfo(kernel, device.id, kKernelWorkGroupSize, sizeof limit,
                                         &limit, nullptr);
    device.api->clReleaseKernel(kernel);
    std::int64_t wanted = 1;
    for (const Expression& size : shape.local) wanted *= size.evaluate(row);
    if (wanted > static_cast<std::int64_t>(limit)) most = std::min(most, limit);
  }
  return most;
}

std::shared_ptr<const Plan> Variant::State::made(const Row& sizes) const {
  const Descriptor& about = family.about;
  const Chooser chooser(family.context.device, about, family.tuned);
  const Row begin = start(sizes);
  std::size_t most = family.context.device.work_group;
  for (;;) {
    Row row = chooser.choose(begin, most);
    const std::string options = "-cl-std=CL1.2 -cl-mad-enable" + about.defines(row);
    auto program = family.context.programs->get(about.family, about.source, options);
    const std::size_t limit = most_items(*program, row);
    if (limit < most) {  // chosen again: the loop ends because the limit only falls
      most = limit;
      continue;
    }
    auto state = std::make_unique<Plan::State>();
    state->family = about.family;
    state->names = about.names;
    for (const KernelShape& shape : about.kernels)
      state->launches.push_back(launch(shape, row, program.get()));
    state->values = std::move(row);
    state->program = std::move(program);
    return std::make_shared<const Plan>(std::move(state));
  }
}

Variant::Variant(std::unique_ptr<State> state) : state_(std::move(state)) {}
Variant::~Variant() = default;

std::shared_ptr<const Plan> Variant::plan(Span<const std::int64_t> sizes) const {
  refuse_fork();
  const Row key(sizes.begin(), sizes.end());
  {
    const std::lock_guard<std::mutex> lock(state_->guard);
    const auto found = state_->plans.find(key);
    if (found != state_->plans.end()) return found->second;
  }
  auto plan = state_->made(key);
  const std::lock_guard<std::mutex> lock(state_->guard);
  if (state_->plans.size() >= kMostPlans) state_->plans.clear();
  state_->plans.emplace(key, plan);
  return plan;
}

std::shared_ptr<const Plan> Variant::try_plan(std::initializer_list<std::int64_t> sizes) const try {
  return plan(sizes);
} catch (const NothingFits&) {
  return nullptr;
}

Family::Family(std::unique_ptr<State> state) : state_(std::move(state)) {}
Family::~Family() = default;

std::shared_ptr<const Variant> Family::variant(const Values& options) const {
  const Descriptor& about = state_->about;
  auto fresh = std::make_unique<Variant::State>(*state_);
  for (const Setting& option : about.options) {
    const auto found = options.find(option.name);
    const bool given = found != options.end();
    const std::int64_t value = given ? found->second : option.otherwise;
    require(std::count(option.values.begin(), option.values.end(), value) != 0, "the family ",
            about.family, ": ", value, " is no value of the option ", option.name);
    fresh->options.push_back(value);
    fresh->given.push_back(given);
  }
  for (const auto& one : options)
    require(std::any_of(about.options.begin(), about.options.end(),
                        [&](const Setting& option) { return option.name == one.first; }),
            "the family ", about.family, " has no option ", one.first);
  const std::lock_guard<std::mutex> lock(state_->guard);
  auto& variant = state_->variants[options];
  if (variant == nullptr) variant = std::make_shared<const Variant>(std::move(fresh));
  return variant;
}

}  // namespace rx::opencl
