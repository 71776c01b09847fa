// The steps that an expression is compiled to: a program for a stack of values.
#pragma once

namespace rx::steps {

enum Operation : int {
  kNumber,
  kName,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kRemainder,
  kNegate,
  kNot,
  kEqual,
  kUnequal,
  kLess,
  kLessEqual,
  kMore,
  kMoreEqual,
  kMin,
  kMax,
  kCeilDiv,
  kRoundUp,
  kSelect,
  kSwapCopy,    // a b -> b a b: a chained comparison needs its middle twice
  kSkipIfZero,  // keeps the top and jumps by the operand where it is 0, else drops it
  kSkipIfOther,
  kDropBelow,  // a b -> b
  kSkip,
};

constexpr int kDeepest = 64;      // of parentheses, so that hostile text cannot exhaust the stack
constexpr int kMostValues = 128;  // on the stack of values

}  // namespace rx::steps
