#include "ops/schema.h"

#include <algorithm>

#include "base/error.h"

namespace rx {
namespace {

const char* text_of(Role role) {
  switch (role) {
    case Role::kReal:
      return "float32 or float16";
    case Role::kBytes:
      return "uint8";
    case Role::kIndices:
      break;
  }
  return "int32 or int64";
}

bool fits(Role role, Type type) {
  switch (role) {
    case Role::kReal:
      return type == Type::kFloat || type == Type::kHalf;
    case Role::kBytes:
      return type == Type::kUint8;
    case Role::kIndices:
      break;
  }
  return type == Type::kInt32 || type == Type::kInt64;
}

void check_attributes(const Schema& schema, const Attributes& attributes) {
  for (const AttributeSchema& one : schema.attributes) {
    if (!one.required && !attributes.has(one.name)) continue;
    switch (one.kind) {
      case AttributeKind::kInt:
        attributes.get<std::int64_t>(one.name);
        break;
      case AttributeKind::kFloat:
        attributes.get<float>(one.name);
        break;
      case AttributeKind::kString:
        attributes.get<std::string>(one.name);
        break;
      case AttributeKind::kInts:
        attributes.get<std::vector<std::int64_t>>(one.name);
        break;
    }
  }
}

void check_inputs(const Schema& schema, const NodeInfo& node) {
  const bool variadic = schema.inputs.back().need == Need::kVariadic;
  require(variadic || node.types.size() <= schema.inputs.size(), "found ", node.types.size(),
          " inputs; expected at most ", schema.inputs.size());
  Type real = Type::kNone;
  for (std::size_t i = 0; i < std::max(node.types.size(), schema.inputs.size()); ++i) {
    const InputSchema& one = schema.inputs[std::min(i, schema.inputs.size() - 1)];
    const Type type = i < node.types.size() ? node.types[i] : Type::kNone;
    if (type == Type::kNone) {
      require(one.need == Need::kOptional, "the input ", one.name, " is missing");
      continue;
    }
    require(fits(one.role, type), "the input ", one.name, " has another type; expected ",
            text_of(one.role));
    if (one.role == Role::kReal) {
      require(real == Type::kNone || real == type, "the input ", one.name,
              " has another type than the first input");
      real = type;
    }
    require(!one.constant || (i < node.constants.size() && node.constants[i].present()),
            "the input ", one.name, " must be a constant initializer");
  }
}

}  // namespace

const std::vector<Schema>& schemas() {
  static const std::vector<Schema> all = {quant_matmul_schema(), quant_gather_schema(),
                                          quant_conv_schema(), lowrank_matmul_schema(),
                                          conv_chain_schema()};
  return all;
}

std::unique_ptr<Operator> make_operator(const NodeInfo& node) {
  for (const Schema& schema : schemas()) {
    if (schema.op != node.op) continue;
    require(node.outputs == 1, "found ", node.outputs, " outputs; expected 1");
    check_attributes(schema, node.attributes);
    check_inputs(schema, node);
    return schema.make(node);
  }
  throw Error(Code::kInvalidGraph, text("found the operator ", node.op, ", which is none of ours"));
}

}  // namespace rx
