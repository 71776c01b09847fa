// A region made ready to run: operators made, shapes inferred, memory planned.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "base/span.h"
#include "base/tensor.h"
#include "base/threads.h"
#include "ops/operator.h"
#include "region/plan.h"
#include "region/region.h"

namespace rx::region {

// Blocks of host memory that runs take and give back, so that a run allocates nothing.
class Blocks {
 public:
  // A block of at least `bytes`, aligned to kAlignment; given back when the pointer dies.
  std::shared_ptr<std::byte> take(std::size_t bytes);

 private:
  struct Block {
    std::unique_ptr<std::byte[]> memory;
    std::size_t bytes = 0;
  };
  static constexpr std::size_t kMostKept = 8;  // as many threads as use one session at once

  void give_back(Block block);

  std::mutex mutex_;
  std::vector<Block> free_;
};

class Executable {
 public:
  // Checks the region, and makes its operators; on a device it uploads their constants too.
  // `context` null: runs on the CPU; it is never freed. Throws Error.
  explicit Executable(Region region, opencl::Context* context = nullptr);
  ~Executable();

  // What these shapes of the region's inputs imply. Throws Error where they contradict an operator.
  // Thread-safe; the plans used last are kept.
  std::shared_ptr<const Plan> plan(Span<const Shape> inputs) const;

  // Shape of output `index` of the region.
  const Shape& output_shape(const Plan& plan, std::size_t index) const;

  // Computes all outputs; `inputs` have the shapes that `plan` was made for, `outputs` those of
  // output_shape(). Thread-safe. Throws Error.
  void run(const Plan& plan, Threads& threads, Span<const Tensor> inputs,
           Span<const Tensor> outputs) const;

  const Region& region() const { return region_; }

 private:
  void make_operators();
  void check_tensors(const Plan& plan, Span<const Tensor> inputs, Span<const Tensor> outputs) const;
  void run_on_cpu(const Plan& plan, Threads& threads, Span<const Tensor> inputs,
                  Span<const Tensor> outputs) const;
  void run_on_device(const Plan& plan, Span<const Tensor> inputs, Span<const Tensor> outputs) const;
  void pack() const;

  Region region_;
  opencl::Context* context_;
  std::vector<std::unique_ptr<Operator>> operators_;
  mutable std::once_flag packed_;
  mutable PlanCache plans_;
  mutable Blocks blocks_;
};

}  // namespace rx::region
