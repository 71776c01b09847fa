// A list of nodes with the values between them, free of any framework's types.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "base/attributes.h"
#include "base/tensor.h"

namespace rx::region {

// Stands in Node::inputs for an optional input that is left out.
constexpr std::size_t kAbsent = static_cast<std::size_t>(-1);

struct Value {
  std::string name;  // for messages
  Type type = Type::kNone;
};

struct Node {
  std::string op;
  std::string name;  // for messages
  Attributes attributes;
  std::vector<std::size_t> inputs;   // indexes of values, or kAbsent
  std::vector<std::size_t> outputs;  // indexes of values
};

// Nodes stand in an order in which they can run. A value is an input of the region, a constant, or
// the output of one node. What constants point to must outlive the region.
struct Region {
  std::vector<Value> values;
  std::vector<Node> nodes;
  std::map<std::size_t, Tensor> constants;
  std::vector<std::size_t> inputs;
  std::vector<std::size_t> outputs;  // each made by a node
};

// Throws Error (kInvalidGraph) unless `region` is as described above.
void check(const Region& region);

}  // namespace rx::region
