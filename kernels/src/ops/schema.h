// What each operator of the domain `ai.onnxslim.rx` takes: the one truth about inputs and
// attributes, read by the checks here, by the door to ONNX Runtime and by the documentation's test.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/operator.h"

namespace rx {

// kReal is float32 or float16, the same for all inputs and outputs of a node.
enum class Role { kReal, kBytes, kIndices };
enum class Need { kRequired, kOptional, kVariadic };  // variadic: the last input, once or more

struct InputSchema {
  const char* name;
  Role role;
  Need need = Need::kRequired;
  bool constant = false;  // must be a constant initializer
};

enum class AttributeKind { kInt, kFloat, kString, kInts };

struct AttributeSchema {
  const char* name;
  AttributeKind kind;
  bool required = false;
};

// Sizes that are not known in an outline: kUnknown, or a smaller number that names one.
constexpr std::int64_t kUnknown = -1;

struct Schema {
  std::string op;
  std::vector<InputSchema> inputs;
  std::vector<AttributeSchema> attributes;
  std::unique_ptr<Operator> (*make)(const NodeInfo& node);
  // The output's shape from shapes that may hold unknown sizes. Throws Error where they contradict.
  Shape (*outline)(const Attributes& attributes, Span<const Shape> inputs);
};

// All operators; their order never changes.
const std::vector<Schema>& schemas();

const Schema& quant_matmul_schema();
const Schema& quant_gather_schema();
const Schema& quant_conv_schema();
const Schema& lowrank_matmul_schema();
const Schema& conv_chain_schema();

}  // namespace rx
