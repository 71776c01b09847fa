// A node of a session: read when it is made, and run as a region of one node.
#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "door/domain.h"
#include "door/tensors.h"
#include "region/executable.h"

namespace rx::door {
namespace {

using abi::Api;
using abi::OrtKernelContext;
using abi::OrtKernelInfo;

// ONNX Runtime's pool of threads, as a kernel may use it while it computes.
class PoolThreads final : public Threads {
 public:
  PoolThreads(const Api& api, const OrtKernelContext* context) : api_(api), context_(context) {}

  // The interface does not tell how many threads the pool has: the machine's are its default.
  std::size_t count() const override {
    static const std::size_t all = std::max(1u, std::thread::hardware_concurrency());
    return all;
  }

  void run(std::size_t total, Body body, void* data) override {
    if (total == 1) return body(data, 0);
    if (total == 0) return;
    // A few batches a thread: one that is late is made up for by the others.
    const std::size_t batches = std::min(total, 4 * count());
    api_.check(api_.KernelContext_ParallelFor(context_, body, total, batches, data));
  }

 private:
  const Api& api_;
  const OrtKernelContext* context_;
};

class Reader {
 public:
  Reader(const Api& api, const OrtKernelInfo* info) : api_(api), info_(info) {}

  std::string name() const {
    return abi::read_text(api_, [&](char* out, std::size_t* size) {
      return api_.KernelInfo_GetNodeName(info_, out, size);
    });
  }

  std::size_t inputs() const {
    std::size_t count = 0;
    api_.check(api_.KernelInfo_GetInputCount(info_, &count));
    return count;
  }

  // kNone for an input that is left out.
  Type input_type(std::size_t index) const {
    const std::string name = abi::read_text(api_, [&](char* out, std::size_t* size) {
      return api_.KernelInfo_GetInputName(info_, index, out, size);
    });
    if (name.empty()) return Type::kNone;
    abi::OrtTypeInfo* raw = nullptr;
    api_.check(api_.KernelInfo_GetInputTypeInfo(info_, index, &raw));
    const std::unique_ptr<abi::OrtTypeInfo, void (*)(abi::OrtTypeInfo*)> info(raw,
                                                                              api_.ReleaseTypeInfo);
    const abi::OrtTensorTypeAndShapeInfo* tensor = nullptr;
    api_.check(api_.CastTypeInfoToTensorInfo(info.get(), &tensor));
    require(tensor != nullptr, "the input ", name, " is no tensor");
    const Type type = type_of(api_, tensor);
    require(type != Type::kNone, "the input ", name, " has an element type that is not known here");
    return type;
  }

  Tensor constant(std::size_t index) const {
    int is_constant = 0;
    const abi::OrtValue* value = nullptr;
    api_.check(api_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
    return is_constant != 0 ? view_of(api_, value) : Tensor{};
  }

  // Reads an attribute under every type that attributes of ours have, so that one of the wrong type
  // is told from one that is absent.
  void attribute(const char* name, Attributes& out) const {
    std::int64_t integer = 0;
    float number = 0;
    if (succeeds(api_.KernelInfoGetAttribute_int64(info_, name, &integer)))
      return out.set(name, integer);
    if (succeeds(api_.KernelInfoGetAttribute_float(info_, name, &number)))
      return out.set(name, number);
    // The two calls of a string cannot be told from absence before the second has succeeded.
    std::size_t size = 0;
    succeeds(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size));
    std::string text(size, '\0');
    if (size != 0 && succeeds(api_.KernelInfoGetAttribute_string(info_, name, text.data(), &size)))
      return out.set(name, std::string(text.c_str()));
    std::vector<std::int64_t> integers;
    if (list(integers, name, api_.KernelInfoGetAttributeArray_int64)) out.set(name, integers);
    std::vector<float> numbers;
    if (integers.empty() && list(numbers, name, api_.KernelInfoGetAttributeArray_float))
      out.set(name, numbers);
  }

 private:
  bool succeeds(abi::OrtStatus* status) const {
    if (status == nullptr) return true;
    api_.ReleaseStatus(status);
    return false;
  }

  template <typename T, typename Read>
  bool list(std::vector<T>& found, const char* name, Read read) const {
    std::size_t count = 0;
    succeeds(read(info_, name, nullptr, &count));
    found.resize(count);
    return count != 0 && succeeds(read(info_, name, found.data(), &count));
  }

  const Api& api_;
  const OrtKernelInfo* info_;
};

class Kernel {
 public:
  Kernel(const CustomOp& op, const OrtKernelInfo* info)
      : domain_(*op.domain),
        executable_(region_of(op, Reader(op.domain->api(), info)), op.domain->context()) {}

  const Api& api() const { return domain_.api(); }

  void compute(OrtKernelContext* context) const {
    const Api& api = domain_.api();
    std::vector<Tensor> inputs;
    std::vector<Shape> shapes;
    for (const std::size_t index : executable_.region().inputs) {
      const abi::OrtValue* value = nullptr;
      api.check(api.KernelContext_GetInput(context, index, &value));
      inputs.push_back(view_of(api, value));
      shapes.push_back(inputs.back().shape);
    }
    const auto plan = executable_.plan(shapes);
    const Shape& shape = executable_.output_shape(*plan, 0);
    abi::OrtValue* value = nullptr;
    api.check(api.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &value));
    const std::vector<Tensor> outputs = {view_of(api, value)};
    PoolThreads threads(api, context);
    executable_.run(*plan, threads, inputs, outputs);
  }

 private:
  // Value i is input i of the node, the last one its output.
  static region::Region region_of(const CustomOp& op, const Reader& reader) {
    region::Region found;
    region::Node node{op.schema->op, reader.name(), {}, {}, {}};
    for (const AttributeSchema& one : op.schema->attributes)
      reader.attribute(one.name, node.attributes);
    const std::size_t count = reader.inputs();
    for (std::size_t i = 0; i < count; ++i) {
      const Type type = reader.input_type(i);
      const auto& inputs = op.schema->inputs;
      found.values.push_back({inputs[std::min(i, inputs.size() - 1)].name, type});
      node.inputs.push_back(type == Type::kNone ? region::kAbsent : i);
      if (type == Type::kNone) continue;
      const Tensor constant = reader.constant(i);
      if (constant.present())
        found.constants[i] = constant;
      else
        found.inputs.push_back(i);
    }
    found.values.push_back({"Y", op.real});
    node.outputs = {count};
    found.outputs = {count};
    found.nodes.push_back(std::move(node));
    return found;
  }

  const Domain& domain_;
  region::Executable executable_;
};

}  // namespace

abi::OrtStatus* create_kernel(const abi::OrtCustomOp* op, const void*, const OrtKernelInfo* info,
                              void** kernel) {
  const auto& ours = *static_cast<const CustomOp*>(op);
  return abi::guarded(ours.domain->api(), [&] { *kernel = new Kernel(ours, info); });
}

abi::OrtStatus* compute_kernel(void* kernel, OrtKernelContext* context) {
  const auto& ours = *static_cast<const Kernel*>(kernel);
  return abi::guarded(ours.api(), [&] { ours.compute(context); });
}

void destroy_kernel(void* kernel) {
  delete static_cast<Kernel*>(kernel);
}

}  // namespace rx::door
