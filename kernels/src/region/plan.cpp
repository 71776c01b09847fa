#include "region/plan.h"

#include <algorithm>
#include <utility>

namespace rx::region {

std::shared_ptr<const Plan> PlanCache::find(Span<const Shape> inputs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto found = plans_.begin(); found != plans_.end(); ++found) {
    const std::vector<Shape>& shapes = (*found)->inputs;
    if (!std::equal(shapes.begin(), shapes.end(), inputs.begin(), inputs.end())) continue;
    plans_.splice(plans_.begin(), plans_, found);
    return plans_.front();
  }
  return nullptr;
}

void PlanCache::add(std::shared_ptr<const Plan> plan) {
  const std::lock_guard<std::mutex> lock(mutex_);
  plans_.push_front(std::move(plan));
  if (plans_.size() > kMost) plans_.pop_back();
}

std::size_t PlanCache::size() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return plans_.size();
}

}  // namespace rx::region
