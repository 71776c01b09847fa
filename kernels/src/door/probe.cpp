// Probe: an operator that calls every slot of ONNX Runtime's interface that this library uses, and
// reports what it read. It is registered where the session entry `ai.onnxslim.rx.probe` is 1, so
// that a test with known values shows whether our declarations hold on a version of the runtime.
//
//   Probe(X (n) float32, C (m) float32 constant, missing? float32) -> Y (20) float32
//   attributes: integer, number, text, integers, numbers
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "abi/custom_op.h"
#include "door/domain.h"
#include "door/tensors.h"

namespace rx::door {
namespace {

using abi::Api;
using abi::OrtCustomOp;
using abi::OrtKernelContext;
using abi::OrtKernelInfo;
using abi::OrtShapeInferContext;

constexpr std::int64_t kReadings = 20;

struct ProbeOp : OrtCustomOp {
  const Api* api = nullptr;
};

const Api& api_of(const OrtCustomOp* op) {
  return *static_cast<const ProbeOp*>(op)->api;
}

// What the runtime says of the node, in the order of the readings.
class Probe {
 public:
  Probe(const Api& api, const OrtKernelInfo* info) : api_(api) {
    attributes(info);
    inputs(info);
    status();
  }

  void compute(OrtKernelContext* context) const {
    std::vector<float> readings = readings_;
    const auto add = [&](auto value) { readings.push_back(static_cast<float>(value)); };
    std::size_t count = 0;
    api_.check(api_.KernelContext_GetInputCount(context, &count));
    add(count);
    api_.check(api_.KernelContext_GetOutputCount(context, &count));
    add(count);
    const abi::OrtValue* value = nullptr;
    api_.check(api_.KernelContext_GetInput(context, 0, &value));
    const Tensor x = view_of(api_, value);
    float sum = 0;
    for (std::int64_t i = 0; i < x.count(); ++i) sum += x.as<float>()[i];
    add(sum);
    std::atomic<int> calls{0};
    const auto body = [](void* data, std::size_t index) {
      *static_cast<std::atomic<int>*>(data) += static_cast<int>(index);
    };
    api_.check(api_.KernelContext_ParallelFor(context, body, 100, 0, &calls));
    add(calls.load());
    const std::int64_t size = kReadings;
    abi::OrtValue* out = nullptr;
    api_.check(api_.KernelContext_GetOutput(context, 0, &size, 1, &out));
    readings.resize(kReadings, -1.0f);
    const Tensor y = view_of(api_, out);
    std::memcpy(y.data, readings.data(), y.bytes());
  }

  const Api& api() const { return api_; }

 private:
  void attributes(const OrtKernelInfo* info) {
    std::int64_t integer = 0;
    float number = 0;
    api_.check(api_.KernelInfoGetAttribute_int64(info, "integer", &integer));
    api_.check(api_.KernelInfoGetAttribute_float(info, "number", &number));
    add(integer);
    add(number);
    add(abi::read_text(api_, [&](char* out, std::size_t* size) {
          return api_.KernelInfoGetAttribute_string(info, "text", out, size);
        }) == "probe me");
    std::array<std::int64_t, 3> integers{};
    std::size_t count = integers.size();
    api_.check(api_.KernelInfoGetAttributeArray_int64(info, "integers", integers.data(), &count));
    add(integers[0] * 100 + integers[1] * 10 + integers[2]);
    std::array<float, 2> numbers{};
    count = numbers.size();
    api_.check(api_.KernelInfoGetAttributeArray_float(info, "numbers", numbers.data(), &count));
    add(numbers[0] * 10 + numbers[1]);
  }

  void inputs(const OrtKernelInfo* info) {
    std::size_t count = 0;
    api_.check(api_.KernelInfo_GetInputCount(info, &count));
    add(count);
    api_.check(api_.KernelInfo_GetOutputCount(info, &count));
    add(count);
    const auto name = [&](std::size_t index) {
      return abi::read_text(api_, [&](char* out, std::size_t* size) {
        return api_.KernelInfo_GetInputName(info, index, out, size);
      });
    };
    // Runtimes give constants names of their own.
    add(name(0) == "x" && !name(1).empty());
    add(abi::read_text(api_, [&](char* out, std::size_t* size) {
          return api_.KernelInfo_GetNodeName(info, out, size);
        }) == "the_probe");
    abi::OrtTypeInfo* type = nullptr;
    api_.check(api_.KernelInfo_GetInputTypeInfo(info, 1, &type));
    const abi::OrtTensorTypeAndShapeInfo* tensor = nullptr;
    api_.check(api_.CastTypeInfoToTensorInfo(type, &tensor));
    add(static_cast<int>(type_of(api_, tensor)));
    add(elements(shape_of(api_, tensor)));
    api_.ReleaseTypeInfo(type);
    int is_constant = 0;
    const abi::OrtValue* value = nullptr;
    api_.check(api_.KernelInfoGetConstantInput_tensor(info, 0, &is_constant, &value));
    add(is_constant);
    api_.check(api_.KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &value));
    add(is_constant);
    add(view_of(api_, value).as<float>()[1]);
  }

  void status() {
    abi::OrtStatus* made = api_.CreateStatus(static_cast<int>(Code::kNotImplemented), "a status");
    add(api_.GetErrorCode(made));
    add(std::string(api_.GetErrorMessage(made)) == "a status");
    api_.ReleaseStatus(made);
  }

  template <typename T>
  void add(T value) {
    readings_.push_back(static_cast<float>(value));
  }

  const Api& api_;
  std::vector<float> readings_;
};

// Y has as many elements as `integer` says (20); the size of X, a name, is read and given back.
void infer(const Api& api, OrtShapeInferContext* context) {
  std::size_t count = 0;
  api.check(api.ShapeInferContext_GetInputCount(context, &count));
  require(count >= 2, "the probe has ", count, " inputs; expected 2");
  abi::OrtTensorTypeAndShapeInfo* x = nullptr;
  api.check(api.ShapeInferContext_GetInputTypeShape(context, 0, &x));
  const char* name = nullptr;
  api.check(api.GetSymbolicDimensions(x, &name, 1));
  require(name != nullptr && std::string(name) == "n", "the size of X has another name than n");
  const abi::OrtOpAttr* attribute = nullptr;
  api.check(api.ShapeInferContext_GetAttribute(context, "integer", &attribute));
  std::int64_t integer = 0;
  std::size_t size = 0;
  api.check(api.ReadOpAttr(attribute, static_cast<int>(abi::AttributeType::kInt), &integer,
                           sizeof(integer), &size));
  require(size == sizeof(integer), "an integer attribute has ", size, " bytes");
  abi::OrtTensorTypeAndShapeInfo* raw = nullptr;
  api.check(api.CreateTensorTypeAndShapeInfo(&raw));
  const TensorInfo y = owned(api, raw);
  api.check(api.SetTensorElementType(raw, static_cast<int>(Type::kFloat)));
  api.check(api.SetDimensions(raw, &integer, 1));
  const char* none = "";
  api.check(api.SetSymbolicDimensions(raw, &none, 1));
  api.check(api.ShapeInferContext_SetOutputTypeShape(context, 0, raw));
}

int float_type(const OrtCustomOp*, std::size_t) {
  return static_cast<int>(Type::kFloat);
}

abi::Presence required(const OrtCustomOp*, std::size_t) {
  return abi::Presence::kRequired;
}

ProbeOp described(const Api& api) {
  ProbeOp op{};
  op.api = &api;
  op.version = api.version();
  op.GetName = [](const OrtCustomOp*) { return "Probe"; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputTypeCount = [](const OrtCustomOp*) { return std::size_t{3}; };
  op.GetInputType = float_type;
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t index) {
    return index == 2 ? abi::Presence::kOptional : abi::Presence::kRequired;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return abi::Memory::kDefault; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return std::size_t{1}; };
  op.GetOutputType = float_type;
  op.GetOutputCharacteristic = required;
  const auto one = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputMinArity = op.GetVariadicInputHomogeneity = one;
  op.GetVariadicOutputMinArity = op.GetVariadicOutputHomogeneity = one;
  op.GetStartVersion = op.GetEndVersion = one;
  op.CreateKernelV2 = [](const OrtCustomOp* self, const void*, const OrtKernelInfo* info,
                         void** kernel) {
    return abi::guarded(api_of(self), [&] { *kernel = new Probe(api_of(self), info); });
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto& probe = *static_cast<const Probe*>(kernel);
    return abi::guarded(probe.api(), [&] { probe.compute(context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Probe*>(kernel); };
  op.InferOutputShapeFn = [](const OrtCustomOp* self, OrtShapeInferContext* context) {
    return abi::guarded(api_of(self), [&] { infer(api_of(self), context); });
  };
  return op;
}

}  // namespace

std::shared_ptr<OrtCustomOp> make_probe(const Api& api) {
  return std::make_shared<ProbeOp>(described(api));
}

}  // namespace rx::door
