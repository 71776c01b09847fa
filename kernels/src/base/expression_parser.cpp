// From the text of an expression to its steps.
#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/expression.h"
#include "base/expression_steps.h"

namespace rx {

using namespace steps;  // NOLINT: the names of this one list

// Recursive descent; emits steps for a stack of values.
class ExpressionParser {
 public:
  ExpressionParser(Expression& out, Span<const std::string> names)
      : out_(out), text_(out.text_), names_(names) {}

  void all() {
    disjunction();
    space();
    if (at_ != text_.size()) fail("expected an operator");
    require(most_ <= kMostValues, "the expression '", text_, "' is too long");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    refuse("the expression '", text_, "', at ", at_ + 1, ": ", what);
  }

  void emit(int operation, std::int64_t operand, int change) {
    out_.steps_.push_back({operation, operand});
    depth_ += change;
    most_ = std::max(most_, depth_);
  }

  void space() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }

  bool take(std::string_view symbol) {
    space();
    if (text_.compare(at_, symbol.size(), symbol) != 0) return false;
    at_ += symbol.size();
    return true;
  }

  std::string peek_word() {
    space();
    std::size_t end = at_;
    const auto part = [&](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
    };
    while (end < text_.size() && part(text_[end])) ++end;
    return text_.substr(at_, end - at_);
  }

  bool take_word(std::string_view word) {
    if (peek_word() != word) return false;
    at_ += word.size();
    return true;
  }

  // Both sides of `and` and `or`: the right one counts only where the left does not decide, and
  // the result is the operand, as in Python.
  template <typename Operand>
  void short_circuit(std::string_view word, int skip, Operand&& operand) {
    operand();
    while (take_word(word)) {
      const std::size_t here = out_.steps_.size();
      emit(skip, 0, -1);
      operand();
      out_.steps_[here].operand = static_cast<std::int64_t>(out_.steps_.size() - here - 1);
    }
  }

  void disjunction() {
    if (++nested_ > kDeepest) fail("nested too deep");
    short_circuit("or", kSkipIfOther,
                  [this] { short_circuit("and", kSkipIfZero, [this] { negation(); }); });
    --nested_;
  }

  void negation() {
    if (!take_word("not")) return comparison();
    if (++nested_ > kDeepest) fail("nested too deep");
    negation();
    emit(kNot, 0, 0);
    --nested_;
  }

  int comparator() {
    constexpr std::array<std::pair<std::string_view, int>, 6> kAll{{{"==", kEqual},
                                                                    {"!=", kUnequal},
                                                                    {"<=", kLessEqual},
                                                                    {">=", kMoreEqual},
                                                                    {"<", kLess},
                                                                    {">", kMore}}};
    for (const auto& [symbol, operation] : kAll)
      if (take(symbol)) return operation;
    return 0;
  }

  // a < b < c: as a < b and b < c, with b evaluated once.
  void comparison() {
    sum();
    int operation = comparator();
    if (operation == 0) return;
    sum();
    std::vector<std::size_t> exits;
    while (const int next = comparator()) {
      emit(kSwapCopy, 0, 1);   // b a b
      emit(operation, 0, -1);  // b (a < b)
      exits.push_back(out_.steps_.size());
      emit(kSkipIfZero, 0, -1);  // b, or out with: b 0
      sum();
      operation = next;
    }
    emit(operation, 0, -1);
    if (exits.empty()) return;
    emit(kSkip, 1, 0);  // the way without exits has no b below
    for (const std::size_t exit : exits)
      out_.steps_[exit].operand = static_cast<std::int64_t>(out_.steps_.size() - exit - 1);
    emit(kDropBelow, 0, 0);
  }

  void sum() {
    product();
    for (;;) {
      const int operation = take("+") ? kAdd : take("-") ? kSubtract : 0;
      if (operation == 0) return;
      product();
      emit(operation, 0, -1);
    }
  }

  void product() {
    unary();
    for (;;) {
      const int operation = take("*")   ? kMultiply
                            : take("/") ? kDivide
                            : take("%") ? kRemainder
                                        : 0;
      if (operation == 0) return;
      unary();
      emit(operation, 0, -1);
    }
  }

  void unary() {
    int minuses = 0;
    for (;;) {
      if (take("-"))
        ++minuses;
      else if (!take("+"))
        break;
    }
    atom();
    if (minuses > 0) emit(kNegate, minuses, 0);
  }

  void atom() {
    if (take("(")) {
      disjunction();
      if (!take(")")) fail("expected ')'");
      return;
    }
    const std::string word = peek_word();
    if (word.empty()) fail("expected a number, a name or '('");
    if (std::isdigit(static_cast<unsigned char>(word[0]))) return number(word);
    if (word == "and" || word == "or" || word == "not") fail("expected a number, a name or '('");
    const std::size_t start = at_;
    at_ += word.size();
    if (take("(")) return call(word, start);
    const auto* found = std::find(names_.begin(), names_.end(), word);
    if (found == names_.end()) {
      at_ = start;
      fail("the name " + word + " is unknown");
    }
    emit(kName, found - names_.begin(), 1);
  }

  void number(const std::string& word) {
    if (word.size() > 1 && word[0] == '0') fail("a number starts with 0");
    std::int64_t value = 0;
    for (const char digit : word) {
      if (!std::isdigit(static_cast<unsigned char>(digit))) fail("expected an integer");
      if (__builtin_mul_overflow(value, 10, &value) ||
          __builtin_add_overflow(value, digit - '0', &value))
        fail("the integer does not fit 64 bits");
    }
    at_ += word.size();
    emit(kNumber, value, 1);
  }

  void call(const std::string& name, std::size_t start) {
    const int operation = name == "min"        ? kMin
                          : name == "max"      ? kMax
                          : name == "ceil_div" ? kCeilDiv
                          : name == "round_up" ? kRoundUp
                          : name == "select"   ? kSelect
                                               : 0;
    const bool folds = operation == kMin || operation == kMax;
    std::size_t count = 0;
    do {
      disjunction();
      if (++count > 1 && folds) emit(operation, 0, -1);
    } while (take(","));
    if (!take(")")) fail("expected ')'");
    const std::size_t wanted = operation == kSelect ? 3 : 2;
    if (operation == 0 || (folds ? count < 2 : count != wanted)) {
      at_ = start;
      fail(operation == 0 ? "the function " + name + " is unknown"
                          : name + " is called with " + std::to_string(count) + " values");
    }
    if (!folds) emit(operation, 0, operation == kSelect ? -2 : -1);
  }

  Expression& out_;
  const std::string& text_;
  Span<const std::string> names_;
  std::size_t at_ = 0;
  int nested_ = 0;
  int depth_ = 0;
  int most_ = 0;
};

Expression::Expression(const std::string& text, Span<const std::string> names) : text_(text) {
  ExpressionParser(*this, names).all();
}

}  // namespace rx
