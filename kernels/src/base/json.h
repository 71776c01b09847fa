// JSON (RFC 8259), strictly: reading into a tree, and writing strings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rx::json {

class Value;
using Array = std::vector<Value>;
using Object = std::vector<std::pair<std::string, Value>>;  // in the order of the text

// A value of a document. The accessors throw Error with the place of the value in the text
// ("gemm.json:3:12: ...") where it has another type.
class Value {
 public:
  using Data = std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object>;

  Value(Data data, std::string place) : data_(std::move(data)), place_(std::move(place)) {}

  bool is_string() const { return std::holds_alternative<std::string>(data_); }
  bool is_integer() const { return std::holds_alternative<std::int64_t>(data_); }
  std::int64_t integer() const;
  double number() const;  // of an integer too
  const std::string& string() const;
  const Array& array() const;
  const Object& object() const;

  const Value* find(std::string_view key) const;  // null where the object lacks it
  const Value& at(std::string_view key) const;
  const std::string& place() const { return place_; }

 private:
  Data data_;
  std::string place_;
};

// Refuses what the standard refuses, double keys, integers beyond 64 bits, depth beyond 64.
// `name` stands in messages.
Value parse(std::string_view text, const std::string& name);

// The text in quotes, with what must be escaped escaped; bytes that are no UTF-8 become '?'.
std::string quoted(std::string_view text);

}  // namespace rx::json
