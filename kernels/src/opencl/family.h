// Families of kernels on a device: from a descriptor to parameters, a program and its geometry.
//
//   auto variant = context.family("gemm").variant({{"TA", 0}, {"REAL_BITS", 32}});  // upload()
//   auto plan = variant->plan({m, n, k, batch});          // cached; the descriptor's order of
//   sizes Buffer space = stream.temporary(plan->value("SPLIT") * bytes); stream.launch(*plan,
//   "gemm", {bytes, flops}, int32_t(m), ..., lo, hi, a, b, bias, residual, y);
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/span.h"

namespace rx::opencl {

class Context;

using Values = std::map<std::string, std::int64_t>;

// One choice of parameters with its program and the geometry for one set of sizes. Immutable.
class Plan {
 public:
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // A size, option, parameter or derived name. Throws where there is none of that name.
  std::int64_t value(const std::string& name) const;
  // Whether these sizes and parameters need that kernel at all (the descriptor's "when"), such as
  // the sum after a split. Throws where there is none of that name.
  bool needs(const std::string& kernel) const;

  struct State;
  explicit Plan(std::unique_ptr<const State> state);
  const State& state() const { return *state_; }

 private:
  std::unique_ptr<const State> state_;
};

// A family under fixed options. Thread-safe.
class Variant {
 public:
  ~Variant();
  Variant(const Variant&) = delete;
  Variant& operator=(const Variant&) = delete;

  // The plan for these sizes, which are given in the descriptor's order: parameters by device >
  // architecture > vendor > class > default; where they do not fit the device, the nearest legal
  // ones that do. Builds the program at the first use. Throws Error where nothing fits.
  std::shared_ptr<const Plan> plan(Span<const std::int64_t> sizes) const;
  std::shared_ptr<const Plan> plan(std::initializer_list<std::int64_t> sizes) const {
    return plan(Span<const std::int64_t>(sizes.begin(), sizes.size()));
  }
  // The same, but null where no legal parameters fit the device. A program that cannot be built is
  // an error here too.
  std::shared_ptr<const Plan> try_plan(std::initializer_list<std::int64_t> sizes) const;

  struct State;
  explicit Variant(std::unique_ptr<State> state);

 private:
  std::unique_ptr<State> state_;
};

// A family on the device of a context. Thread-safe.
class Family {
 public:
  ~Family();
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;

  // Under these options; those not given follow from the sizes where the descriptor says how
  // ("from_sizes"), else have its default. The same options give the same variant. Throws Error for
  // an option or a value that the descriptor does not have.
  std::shared_ptr<const Variant> variant(const Values& options) const;

  struct State;
  explicit Family(std::unique_ptr<State> state);

 private:
  std::unique_ptr<State> state_;
};

}  // namespace rx::opencl
