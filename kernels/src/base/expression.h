// Integer expressions of kernel descriptors, as Python evaluates them (tools/kernel_families.py).
//
// Integers (64 bits; overflow is an error), names, + - * / (floor) %, comparisons (also chained),
// and, or, not, parentheses, min, max, ceil_div, round_up, select(condition, then, otherwise).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/span.h"

namespace rx {

class Expression {
 public:
  // `names` are what it may use; values are later given in their order. Throws Error with the
  // position of what is wrong.
  Expression(const std::string& text, Span<const std::string> names);

  // Throws Error on a division by zero or an overflow. Thread-safe.
  std::int64_t evaluate(Span<const std::int64_t> values) const;
  const std::string& text() const { return text_; }

 private:
  struct Step {
    int operation;
    std::int64_t operand;
  };
  friend class ExpressionParser;
  std::string text_;
  std::vector<Step> steps_;
};

}  // namespace rx
