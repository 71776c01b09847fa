// Shape inference when a model is loaded: sizes may be unknown, or have a name.
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "door/domain.h"
#include "door/tensors.h"

namespace rx::door {
namespace {

using abi::Api;
using abi::OrtShapeInferContext;

class Inference {
 public:
  Inference(const CustomOp& op, OrtShapeInferContext* context)
      : op_(op), api_(op.domain->api()), context_(context) {}

  void run() {
    std::vector<Shape> inputs(op_.schema->inputs.size());
    std::size_t count = 0;
    api_.check(api_.ShapeInferContext_GetInputCount(context_, &count));
    if (inputs.size() < count) inputs.resize(count);
    for (std::size_t i = 0; i < count; ++i) inputs[i] = input(i);
    const bool ranked = known(inputs, count);
    if (ranked) set_output(op_.schema->outline(attributes(), inputs));
  }

 private:
  // A shape without sizes is that of a scalar or, more likely, none: nothing of ours takes scalars,
  // but for the indices of a look-up, which then go without an inferred shape.
  bool known(const std::vector<Shape>& inputs, std::size_t count) const {
    for (std::size_t i = 0; i < op_.schema->inputs.size(); ++i) {
      const Need need = op_.schema->inputs[i].need;
      if (need != Need::kOptional && (i >= count || inputs[i].empty())) return false;
    }
    return true;
  }

  Shape input(std::size_t index) {
    abi::OrtTensorTypeAndShapeInfo* raw = nullptr;
    api_.check(api_.ShapeInferContext_GetInputTypeShape(context_, index, &raw));
    // The runtime keeps this one: it is not ours to release.
    const auto& schemas = op_.schema->inputs;
    if (type_ == Type::kNone && index < schemas.size() && schemas[index].role == Role::kReal)
      type_ = type_of(api_, raw);
    Shape shape = shape_of(api_, raw);
    std::vector<const char*> names(shape.size(), nullptr);
    if (!names.empty()) api_.check(api_.GetSymbolicDimensions(raw, names.data(), names.size()));
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      const std::string name = names[axis] == nullptr ? "" : names[axis];
      if (!name.empty()) {
        symbols_.push_back(name);
        shape[axis] = kUnknown - static_cast<std::int64_t>(symbols_.size());
      } else if (shape[axis] < 0) {
        shape[axis] = kUnknown;
      }
    }
    return shape;
  }

  Attributes attributes() const {
    Attributes found;
    for (const AttributeSchema& one : op_.schema->attributes) {
      const abi::OrtOpAttr* attribute = nullptr;
      abi::OrtStatus* status = api_.ShapeInferContext_GetAttribute(context_, one.name, &attribute);
      if (status != nullptr) {
        api_.ReleaseStatus(status);
      } else if (attribute != nullptr) {
        if (one.kind == AttributeKind::kInt) read_integer(attribute, one.name, found);
        if (one.kind == AttributeKind::kInts) read_integers(attribute, one.name, found);
      }
    }
    return found;
  }

  void read_integer(const abi::OrtOpAttr* attribute, const char* name, Attributes& found) const {
    std::int64_t value = 0;
    std::size_t size = 0;
    api_.check(api_.ReadOpAttr(attribute, static_cast<int>(abi::AttributeType::kInt), &value,
                               sizeof(value), &size));
    found.set(name, value);
  }

  void read_integers(const abi::OrtOpAttr* attribute, const char* name, Attributes& found) const {
    const int type = static_cast<int>(abi::AttributeType::kInts);
    std::size_t size = 0;
    abi::OrtStatus* status = api_.ReadOpAttr(attribute, type, nullptr, 0, &size);
    if (status != nullptr) api_.ReleaseStatus(status);  // "too small": `size` is set
    std::vector<std::int64_t> values(size / sizeof(std::int64_t));
    if (!values.empty()) api_.check(api_.ReadOpAttr(attribute, type, values.data(), size, &size));
    found.set(name, values);
  }

  // A size that stays unknown needs a name that no other has: equal names mean equal sizes.
  static std::string fresh() {
    static std::atomic<std::uint64_t> next{0};
    return "rx_size_" + std::to_string(next++);
  }

  void set_output(Shape shape) {
    abi::OrtTensorTypeAndShapeInfo* raw = nullptr;
    api_.check(api_.CreateTensorTypeAndShapeInfo(&raw));
    const TensorInfo info = owned(api_, raw);
    api_.check(api_.SetTensorElementType(raw, static_cast<int>(type_)));
    std::vector<std::string> names(shape.size());
    std::vector<const char*> pointers;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] == kUnknown) names[axis] = fresh();
      if (shape[axis] < kUnknown)
        names[axis] = symbols_[static_cast<std::size_t>(kUnknown - shape[axis] - 1)];
      if (shape[axis] < 0) shape[axis] = -1;
    }
    for (const std::string& name : names) pointers.push_back(name.c_str());
    api_.check(api_.SetDimensions(raw, shape.data(), shape.size()));
    api_.check(api_.SetSymbolicDimensions(raw, pointers.data(), pointers.size()));
    api_.check(api_.ShapeInferContext_SetOutputTypeShape(context_, 0, raw));
  }

  const CustomOp& op_;
  const Api& api_;
  OrtShapeInferContext* context_;
  std::vector<std::string> symbols_;
  // All variants of an operator share the function of the first, so its own types say nothing.
  Type type_ = Type::kNone;
};

}  // namespace

abi::OrtStatus* infer_shapes(const abi::OrtCustomOp* op, OrtShapeInferContext* context) {
  const auto& ours = *static_cast<const CustomOp*>(op);
  return abi::guarded(ours.domain->api(), [&] { Inference(ours, context).run(); });
}

}  // namespace rx::door
