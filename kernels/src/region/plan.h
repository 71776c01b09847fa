// What one set of input shapes implies for a region, and a bounded cache of it.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "base/span.h"
#include "base/tensor.h"
#include "region/memory_plan.h"

namespace rx::region {

struct Plan {
  std::vector<Shape> inputs;  // what it was made for
  std::vector<Shape> shapes;  // of every value
  // Of every value; only those between nodes lie in the block.
  MemoryPlan memory;
  // Values between nodes that no node behind this one reads, by node.
  std::vector<std::vector<std::size_t>> dead_after;
  // A node reads a tensor without elements: a sum over nothing, which no kernel is made for.
  bool has_empty = false;
};

// The plans used last. Thread-safe.
class PlanCache {
 public:
  static constexpr std::size_t kMost = 32;  // models with changing sequence lengths have that many

  // The plan made for these shapes, or null.
  std::shared_ptr<const Plan> find(Span<const Shape> inputs);
  void add(std::shared_ptr<const Plan> plan);
  std::size_t size() const;

 private:
  mutable std::mutex mutex_;
  std::list<std::shared_ptr<const Plan>> plans_;  // the one used last stands first
};

}  // namespace rx::region
