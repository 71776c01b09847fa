#include "region/region.h"

#include "base/error.h"

namespace rx::region {
namespace {

template <typename... Parts>
void expect(bool holds, Parts&&... parts) {
  if (!holds) throw Error(Code::kInvalidGraph, text(std::forward<Parts>(parts)...));
}

class Checker {
 public:
  explicit Checker(const Region& region) : region_(region), known_(region.values.size(), false) {}

  void run() {
    for (const auto& [index, tensor] : region_.constants) {
      define(index, "a constant");
      expect(tensor.type == region_.values[index].type, "the constant ", region_.values[index].name,
             " has another type than its value");
    }
    for (const std::size_t index : region_.inputs) define(index, "an input");
    std::vector<bool> made(region_.values.size(), false);
    for (const Node& node : region_.nodes) {
      for (const std::size_t index : node.inputs)
        if (index != kAbsent) use(index, node.op);
      for (const std::size_t index : node.outputs) {
        define(index, node.op);
        made[index] = true;
      }
    }
    for (const std::size_t index : region_.outputs) {
      use(index, "an output");
      expect(made[index], "the output ", region_.values[index].name, " is not made by a node");
    }
  }

 private:
  void define(std::size_t index, const std::string& by) {
    expect(index < known_.size(), by, " of the region is value ", index, " of ", known_.size());
    const Value& value = region_.values[index];
    expect(value.type != Type::kNone, "the value ", value.name, " has no type");
    expect(!known_[index], "the value ", value.name, " is made twice, the second time by ", by);
    known_[index] = true;
  }

  void use(std::size_t index, const std::string& by) const {
    expect(index < known_.size(), by, " of the region uses value ", index, " of ", known_.size());
    expect(known_[index], by, " uses ", region_.values[index].name, " before it is made");
  }

  const Region& region_;
  std::vector<bool> known_;
};

}  // namespace

void check(const Region& region) {
  Checker(region).run();
}

}  // namespace rx::region
