#include "region/executable.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/error.h"
#include "opencl/context.h"

namespace rx::region {
namespace {

// Names the node in what is thrown about it.
template <typename Function>
void at_node(const Node& node, Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    throw Error(error.code(), text(node.op, " ", node.name, ": ", error.what()));
  }
}

// The first and last step at which each value between nodes must be kept; other values, and those
// that outlive the region, take no memory of it.
std::vector<Lifetime> lifetimes(const Region& region, const std::vector<Shape>& shapes) {
  std::vector<Lifetime> found(region.values.size());
  for (std::size_t step = 0; step < region.nodes.size(); ++step) {
    for (const std::size_t index : region.nodes[step].outputs) {
      const std::size_t bytes = static_cast<std::size_t>(elements(shapes[index]));
      found[index] = {bytes * size_of(region.values[index].type), step, step};
    }
    for (const std::size_t index : region.nodes[step].inputs)
      if (index != kAbsent) found[index].last = step;
  }
  for (const std::size_t index : region.outputs) found[index].bytes = 0;
  return found;
}

}  // namespace

std::shared_ptr<std::byte> Blocks::take(std::size_t bytes) {
  Block block;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto fits = std::find_if(free_.begin(), free_.end(),
                                   [&](const Block& one) { return one.bytes >= bytes; });
    if (fits != free_.end()) {
      block = std::move(*fits);
      free_.erase(fits);
    }
  }
  if (block.memory == nullptr)
    block = {std::unique_ptr<std::byte[]>(new std::byte[bytes + kAlignment]), bytes};
  const auto address = reinterpret_cast<std::uintptr_t>(block.memory.get());
  std::byte* start = block.memory.get() + (kAlignment - address % kAlignment) % kAlignment;
  auto kept = std::make_shared<Block>(std::move(block));
  return {start, [this, kept](std::byte*) { give_back(std::move(*kept)); }};
}

void Blocks::give_back(Block block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free_.size() == kMostKept) free_.erase(free_.begin());
  free_.push_back(std::move(block));
}

Executable::Executable(Region region, opencl::Context* context)
    : region_(std::move(region)), context_(context) {
  check(region_);
  make_operators();
}

Executable::~Executable() = default;

void Executable::make_operators() {
  for (const Node& node : region_.nodes) {
    NodeInfo info{node.op, node.name, node.attributes, {}, {}, node.outputs.size()};
    for (const std::size_t index : node.inputs) {
      const auto constant = region_.constants.find(index);
      const bool known = constant != region_.constants.end();
      info.types.push_back(index == kAbsent ? Type::kNone : region_.values[index].type);
      info.constants.push_back(known ? constant->second : Tensor{});
    }
    at_node(node, [&] {
      operators_.push_back(make_operator(info));
      if (context_ != nullptr) operators_.back()->upload(*context_);
    });
  }
  if (context_ == nullptr) pack();
}

void Executable::pack() const {
  std::call_once(packed_, [this] {
    for (std::size_t step = 0; step < operators_.size(); ++step)
      at_node(region_.nodes[step], [&] { operators_[step]->pack(); });
  });
}

std::shared_ptr<const Plan> Executable::plan(Span<const Shape> inputs) const {
  if (std::shared_ptr<const Plan> found = plans_.find(inputs)) return found;
  require(inputs.size() == region_.inputs.size(), "found ", inputs.size(), " inputs; expected ",
          region_.inputs.size());
  auto plan = std::make_shared<Plan>();
  plan->inputs.assign(inputs.begin(), inputs.end());
  plan->shapes.resize(region_.values.size());
  for (const auto& [index, tensor] : region_.constants) plan->shapes[index] = tensor.shape;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    elements(inputs[i]);  // refuses sizes that no arithmetic below would survive
    plan->shapes[region_.inputs[i]] = inputs[i];
  }
  for (std::size_t step = 0; step < region_.nodes.size(); ++step) {
    const Node& node = region_.nodes[step];
    std::vector<Shape> shapes;
    for (const std::size_t index : node.inputs)
      shapes.push_back(index == kAbsent ? Shape{} : plan->shapes[index]);
    at_node(node, [&] {
      const std::vector<Shape> made = operators_[step]->infer(shapes);
      for (std::size_t i = 0; i < node.outputs.size(); ++i) {
        elements(made.at(i));
        plan->shapes[node.outputs[i]] = made[i];
      }
    });
  }
  const std::vector<Lifetime> lives = lifetimes(region_, plan->shapes);
  plan->memory = plan_memory(lives);
  plan->dead_after.resize(region_.nodes.size());
  for (std::size_t index = 0; index < lives.size(); ++index)
    if (lives[index].bytes != 0) plan->dead_after[lives[index].last].push_back(index);
  for (const Node& node : region_.nodes)
    for (const std::size_t index : node.inputs)
      plan->has_empty = plan->has_empty || (index != kAbsent && elements(plan->shapes[index]) == 0);
  plans_.add(plan);
  return plan;
}

const Shape& Executable::output_shape(const Plan& plan, std::size_t index) const {
  return plan.shapes[region_.outputs.at(index)];
}

void Executable::check_tensors(const Plan& plan, Span<const Tensor> inputs,
                               Span<const Tensor> outputs) const {
  const auto same = [&](Span<const Tensor> given, const std::vector<std::size_t>& values,
                        const char* what) {
    require(given.size() == values.size(), "found ", given.size(), " ", what, "s; expected ",
            values.size());
    for (std::size_t i = 0; i < given.size(); ++i) {
      const Value& value = region_.values[values[i]];
      require(given[i].type == value.type, what, " ", value.name, " has another type");
      require(given[i].shape == plan.shapes[values[i]], what, " ", value.name, ": found the shape ",
              text_of(given[i].shape), "; expected ", text_of(plan.shapes[values[i]]));
    }
  };
  same(inputs, region_.inputs, "input");
  same(outputs, region_.outputs, "output");
}

void Executable::run(const Plan& plan, Threads& threads, Span<const Tensor> inputs,
                     Span<const Tensor> outputs) const {
  check_tensors(plan, inputs, outputs);
  if (std::all_of(outputs.begin(), outputs.end(),
                  [](const Tensor& one) { return one.count() == 0; }))
    return;
  if (context_ != nullptr && !plan.has_empty) return run_on_device(plan, inputs, outputs);
  pack();
  run_on_cpu(plan, threads, inputs, outputs);
}

void Executable::run_on_device(const Plan& plan, Span<const Tensor> inputs,
                               Span<const Tensor> outputs) const {
  const std::unique_ptr<opencl::Stream> stream = context_->stream();
  std::vector<opencl::DeviceTensor> values(region_.values.size());
  for (const auto& [index, tensor] : region_.constants)
    values[index] = {tensor.type, tensor.shape, {}};
  for (std::size_t i = 0; i < inputs.size(); ++i)
    values[region_.inputs[i]] = stream->input(inputs[i]);
  for (std::size_t i = 0; i < outputs.size(); ++i)
    values[region_.outputs[i]] = stream->output(outputs[i]);
  std::vector<opencl::DeviceTensor> taken;
  std::vector<opencl::DeviceTensor> made;
  for (std::size_t step = 0; step < region_.nodes.size(); ++step) {
    const Node& node = region_.nodes[step];
    taken.clear();
    made.clear();
    for (const std::size_t index : node.inputs)
      taken.push_back(index == kAbsent ? opencl::DeviceTensor{} : values[index]);
    for (const std::size_t index : node.outputs) {
      if (!values[index].present())
        values[index] = stream->temporary(region_.values[index].type, plan.shapes[index]);
      made.push_back(values[index]);
    }
    at_node(node, [&] { operators_[step]->enqueue(*stream, taken, made); });
    // The stream's next tensor may take the memory of what no later node reads.
    taken.clear();
    made.clear();
    for (const std::size_t index : plan.dead_after[step]) values[index] = {};
  }
  stream->finish();
}

void Executable::run_on_cpu(const Plan& plan, Threads& threads, Span<const Tensor> inputs,
                            Span<const Tensor> outputs) const {
  std::shared_ptr<std::byte> block;
  if (plan.memory.bytes != 0) block = blocks_.take(plan.memory.bytes);
  std::vector<Tensor> values(region_.values.size());
  for (const auto& [index, tensor] : region_.constants) values[index] = tensor;
  for (std::size_t i = 0; i < inputs.size(); ++i) values[region_.inputs[i]] = inputs[i];
  for (std::size_t i = 0; i < outputs.size(); ++i) values[region_.outputs[i]] = outputs[i];
  std::vector<Tensor> taken;
  std::vector<Tensor> made;
  for (std::size_t step = 0; step < region_.nodes.size(); ++step) {
    const Node& node = region_.nodes[step];
    taken.clear();
    made.clear();
    for (const std::size_t index : node.inputs)
      taken.push_back(index == kAbsent ? Tensor{} : values[index]);
    for (const std::size_t index : node.outputs) {
      if (!values[index].present())
        values[index] = {region_.values[index].type, plan.shapes[index],
                         block.get() + plan.memory.offsets[index]};
      made.push_back(values[index]);
    }
    at_node(node, [&] { operators_[step]->run(threads, taken, made); });
  }
}

}  // namespace rx::region
