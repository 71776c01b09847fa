#include "base/expression.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/expression_steps.h"

namespace rx {

using namespace steps;  // NOLINT: the names of this one list
namespace {

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  require(b != 0, "division by zero");
  require(b != -1 || a != std::numeric_limits<std::int64_t>::min(), "overflow");
  const std::int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

std::int64_t multiply(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  require(!__builtin_mul_overflow(a, b, &out), "overflow");
  return out;
}

std::int64_t subtract(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  require(!__builtin_sub_overflow(a, b, &out), "overflow");
  return out;
}

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) {
  return subtract(0, floor_divide(subtract(0, a), b));
}

std::int64_t binary(int operation, std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  switch (operation) {
    case kAdd:
      require(!__builtin_add_overflow(a, b, &out), "overflow");
      return out;
    case kSubtract:
      return subtract(a, b);
    case kMultiply:
      return multiply(a, b);
    case kDivide:
      return floor_divide(a, b);
    case kRemainder:
      return b == -1 ? 0 : a - b * floor_divide(a, b);
    case kEqual:
      return a == b;
    case kUnequal:
      return a != b;
    case kLess:
      return a < b;
    case kLessEqual:
      return a <= b;
    case kMore:
      return a > b;
    case kMoreEqual:
      return a >= b;
    case kMin:
      return std::min(a, b);
    case kMax:
      return std::max(a, b);
    case kCeilDiv:
      return ceil_divide(a, b);
    default:  // kRoundUp
      return multiply(ceil_divide(a, b), b);
  }
}

}  // namespace

std::int64_t Expression::evaluate(Span<const std::int64_t> values) const try {
  std::array<std::int64_t, kMostValues + 1> stack;
  std::size_t top = 0;  // number of values
  for (std::size_t at = 0; at < steps_.size(); ++at) {
    const Step& step = steps_[at];
    switch (step.operation) {
      case kNumber:
        stack[top++] = step.operand;
        break;
      case kName:
        stack[top++] = values[static_cast<std::size_t>(step.operand)];
        break;
      case kNegate:
        stack[top - 1] = subtract(0, stack[top - 1]);  // also for an even number: checks overflow
        if (step.operand % 2 == 0) stack[top - 1] = -stack[top - 1];
        break;
      case kNot:
        stack[top - 1] = stack[top - 1] == 0;
        break;
      case kSelect:
        stack[top - 3] = stack[top - 3] != 0 ? stack[top - 2] : stack[top - 1];
        top -= 2;
        break;
      case kSwapCopy:
        stack[top] = stack[top - 1];
        std::swap(stack[top - 2], stack[top - 1]);
        ++top;
        break;
      case kDropBelow:
        stack[top - 2] = stack[top - 1];
        --top;
        break;
      case kSkip:
        at += static_cast<std::size_t>(step.operand);
        break;
      case kSkipIfZero:
      case kSkipIfOther:
        if ((stack[top - 1] == 0) == (step.operation == kSkipIfZero))
          at += static_cast<std::size_t>(step.operand);
        else
          --top;
        break;
      default:
        stack[top - 2] = binary(step.operation, stack[top - 2], stack[top - 1]);
        --top;
    }
  }
  return stack[0];
} catch (const Error& error) {
  refuse("the expression '", text_, "': ", error.what());
}

}  // namespace rx
