#include "base/json.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "base/error.h"

namespace rx::json {
namespace {

constexpr int kDeepest = 64;

// Bytes of the valid UTF-8 sequence at `at`; 0 where there is none. Overlong forms, surrogates and
// values beyond U+10FFFF are invalid (RFC 3629).
std::size_t sequence_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                             : (first & 0xF0) == 0xE0         ? 3
                             : first >= 0xF0 && first <= 0xF4 ? 4
                                                              : 0;
  if (length == 0 || at + length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  const unsigned char second = byte(at + 1);
  const bool bad = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
                   (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);
  return bad ? 0 : length;
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

class Parser {
 public:
  Parser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  Value document() {
    Value value = any(0);
    skip_space();
    if (at_ != text_.size()) fail("more text after the document's end");
    return value;
  }

 private:
  std::string place() const {
    const auto before = text_.substr(0, std::min(at_, text_.size()));
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t start = before.rfind('\n');
    const std::size_t column = start == before.npos ? at_ + 1 : at_ - start;
    return text(name_, ":", line, ":", column);
  }

  template <typename... Parts>
  [[noreturn]] void fail(Parts&&... parts) const {
    refuse(place(), ": ", std::forward<Parts>(parts)...);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char wanted) {
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void need(char wanted) {
    if (!take(wanted)) fail("expected '", wanted, "'");
  }
  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string::npos)
      ++at_;
  }

  Value any(int depth) {
    skip_space();
    if (depth > kDeepest) fail("nested deeper than ", kDeepest, " levels");
    const std::string where = place();
    switch (peek()) {
      case '{':
        return Value(object(depth), where);
      case '[':
        return Value(array(depth), where);
      case '"':
        return Value(string(), where);
      case 't':
        word("true");
        return Value(true, where);
      case 'f':
        word("false");
        return Value(false, where);
      case 'n':
        word("null");
        return Value(nullptr, where);
      default:
        return Value(number(), where);
    }
  }

  void word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) fail("expected ", wanted);
    at_ += wanted.size();
  }

  Object object(int depth) {
    Object out;
    need('{');
    skip_space();
    if (take('}')) return out;
    do {
      skip_space();
      if (peek() != '"') fail("expected a key in quotes");
      std::string key = string();
      for (const auto& member : out)
        if (member.first == key) fail("the key ", quoted(key), " is there twice");
      skip_space();
      need(':');
      out.emplace_back(std::move(key), any(depth + 1));
      skip_space();
    } while (take(','));
    need('}');
    return out;
  }

  Array array(int depth) {
    Array out;
    need('[');
    skip_space();
    if (take(']')) return out;
    do {
      out.push_back(any(depth + 1));
      skip_space();
    } while (take(','));
    need(']');
    return out;
  }

  std::string string() {
    need('"');
    std::string out;
    while (!take('"')) {
      if (at_ >= text_.size()) fail("a string has no end");
      if (static_cast<unsigned char>(text_[at_]) < 0x20) fail("a control character in a string");
      if (take('\\')) {
        escape(out);
        continue;
      }
      const std::size_t length = sequence_at(text_, at_);
      if (length == 0) fail("a string is no UTF-8");
      out.append(text_.substr(at_, length));
      at_ += length;
    }
    return out;
  }

  void escape(std::string& out) {
    constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    const std::size_t which = kFrom.find(peek());
    if (at_ < text_.size() && which != kFrom.npos) {
      out += kTo[which];
      ++at_;
      return;
    }
    if (!take('u')) fail("an unknown escape in a string");
    std::uint32_t code = four_digits();
    if (code >= 0xDC00 && code <= 0xDFFF) fail("half of a surrogate pair");
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (!take('\\') || !take('u')) fail("half of a surrogate pair");
      const std::uint32_t low = four_digits();
      if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, code);
  }

  std::uint32_t four_digits() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const std::size_t digit = std::string_view("0123456789abcdefABCDEF").find(peek());
      if (at_ >= text_.size() || digit == std::string_view::npos)
        fail("expected four hexadecimal digits");
      code = code * 16 + static_cast<std::uint32_t>(digit < 16 ? digit : digit - 6);
      ++at_;
    }
    return code;
  }

  bool digits() {
    const std::size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  Value::Data number() {
    const std::size_t start = at_;
    take('-');
    const bool zero = peek() == '0';
    const std::size_t first = at_;
    if (!digits()) {
      at_ = start;
      fail("expected a value");
    }
    if (zero && at_ - first > 1) fail("a number starts with 0");
    bool whole = true;
    if (take('.')) {
      whole = false;
      if (!digits()) fail("expected digits after the point");
    }
    if (take('e') || take('E')) {
      whole = false;
      if (!take('+')) take('-');
      if (!digits()) fail("expected digits of the exponent");
    }
    const std::string written(text_.substr(start, at_ - start));
    errno = 0;
    if (whole) {
      const long long value = std::strtoll(written.c_str(), nullptr, 10);
      if (errno == ERANGE) fail("the integer ", written, " does not fit 64 bits");
      return static_cast<std::int64_t>(value);
    }
    const double value = std::strtod(written.c_str(), nullptr);
    if (!std::isfinite(value)) fail("the number ", written, " is too large");
    return value;
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t at_ = 0;
};

}  // namespace

std::int64_t Value::integer() const {
  const auto* value = std::get_if<std::int64_t>(&data_);
  require(value != nullptr, place_, ": expected an integer");
  return *value;
}

double Value::number() const {
  if (const auto* whole = std::get_if<std::int64_t>(&data_)) return static_cast<double>(*whole);
  const auto* value = std::get_if<double>(&data_);
  require(value != nullptr, place_, ": expected a number");
  return *value;
}

const std::string& Value::string() const {
  const auto* value = std::get_if<std::string>(&data_);
  require(value != nullptr, place_, ": expected a string");
  return *value;
}

const Array& Value::array() const {
  const auto* value = std::get_if<Array>(&data_);
  require(value != nullptr, place_, ": expected an array");
  return *value;
}

const Object& Value::object() const {
  const auto* value = std::get_if<Object>(&data_);
  require(value != nullptr, place_, ": expected an object");
  return *value;
}

const Value* Value::find(std::string_view key) const {
  for (const auto& member : object())
    if (member.first == key) return &member.second;
  return nullptr;
}

const Value& Value::at(std::string_view key) const {
  const Value* value = find(key);
  require(value != nullptr, place_, ": the key ", quoted(key), " is missing");
  return *value;
}

Value parse(std::string_view text, const std::string& name) {
  return Parser(text, name).document();
}

std::string quoted(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "\"";
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const std::size_t length = sequence_at(text, at);
    if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text[at];
    } else if (byte < 0x20 || byte == 0x7F) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else if (length == 0) {
      out += '?';
    } else {
      out.append(text.substr(at, length));
    }
    at += std::max<std::size_t>(length, 1);
  }
  return out + "\"";
}

}  // namespace rx::json
