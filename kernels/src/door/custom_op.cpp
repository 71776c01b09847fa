// What ONNX Runtime asks of an operator before it makes kernels: name, inputs, outputs, types.
#include <algorithm>

#include "door/domain.h"

namespace rx::door {
namespace {

using abi::OrtCustomOp;

const CustomOp& ours(const OrtCustomOp* op) {
  return *static_cast<const CustomOp*>(op);
}

const InputSchema& input(const OrtCustomOp* op, std::size_t index) {
  const auto& inputs = ours(op).schema->inputs;
  return inputs[std::min(index, inputs.size() - 1)];
}

abi::Presence presence(Need need) {
  switch (need) {
    case Need::kOptional:
      return abi::Presence::kOptional;
    case Need::kVariadic:
      return abi::Presence::kVariadic;
    case Need::kRequired:
      break;
  }
  return abi::Presence::kRequired;
}

}  // namespace

std::unique_ptr<CustomOp> make_custom_op(const Domain& domain, const Schema& schema, Type real,
                                         Type indices) {
  auto op = std::make_unique<CustomOp>();
  static_cast<OrtCustomOp&>(*op) = {};
  op->version = domain.api().version();
  op->domain = &domain;
  op->schema = &schema;
  op->real = real;
  op->indices = indices;
  op->GetName = [](const OrtCustomOp* self) { return ours(self).schema->op.c_str(); };
  op->GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op->GetInputTypeCount = [](const OrtCustomOp* self) { return ours(self).schema->inputs.size(); };
  op->GetInputType = [](const OrtCustomOp* self, std::size_t index) {
    return static_cast<int>(ours(self).type_of(input(self, index).role));
  };
  op->GetInputCharacteristic = [](const OrtCustomOp* self, std::size_t index) {
    return presence(input(self, index).need);
  };
  op->GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return abi::Memory::kDefault; };
  op->GetOutputTypeCount = [](const OrtCustomOp*) { return std::size_t{1}; };
  op->GetOutputType = [](const OrtCustomOp* self, std::size_t) {
    return static_cast<int>(ours(self).real);
  };
  op->GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) {
    return abi::Presence::kRequired;
  };
  op->GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op->GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op->GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op->GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op->CreateKernelV2 = create_kernel;
  op->KernelComputeV2 = compute_kernel;
  op->KernelDestroy = destroy_kernel;
  if (domain.api().runtime() >= abi::kInfersShapes) op->InferOutputShapeFn = infer_shapes;
  return op;
}

}  // namespace rx::door
