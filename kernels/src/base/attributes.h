// Attributes of a node: named integers, floats, strings and lists.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace rx {

class Attributes {
 public:
  using Value =
      std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>, std::vector<float>>;

  void set(const std::string& name, Value value) { values_[name] = std::move(value); }
  bool has(const std::string& name) const { return values_.count(name) != 0; }

  // The attribute of that name; refuses another type, and absence.
  template <typename T>
  const T& get(const std::string& name) const {
    const auto found = values_.find(name);
    require(found != values_.end(), "the attribute ", name, " is missing");
    const T* value = std::get_if<T>(&found->second);
    require(value != nullptr, "the attribute ", name, " has another type than the operator's");
    return *value;
  }

  // The attribute of that name, or `otherwise` where it is absent.
  template <typename T>
  T get_or(const std::string& name, T otherwise) const {
    return has(name) ? get<T>(name) : otherwise;
  }

 private:
  std::map<std::string, Value> values_;
};

}  // namespace rx
