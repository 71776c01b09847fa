// The operators of the domain `ai.onnxslim.rx` as one session gets them: for one device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "abi/api.h"
#include "abi/custom_op.h"
#include "opencl/context.h"
#include "ops/schema.h"

namespace rx::door {

constexpr const char* kDomain = "ai.onnxslim.rx";

class Domain;

// One operator for one choice of its types. ONNX Runtime gets a pointer to the first part, and
// gives it back to each function.
struct CustomOp : abi::OrtCustomOp {
  const Domain* domain = nullptr;
  const Schema* schema = nullptr;
  Type real = Type::kNone;
  Type indices = Type::kNone;

  Type type_of(Role role) const {
    return role == Role::kReal ? real : role == Role::kBytes ? Type::kUint8 : indices;
  }
};

// What a session asked for. Sessions that ask for the same share one domain.
struct Request {
  std::string device;
  opencl::Settings settings;
  bool probe = false;

  static Request of(const abi::Api& api, const abi::OrtSessionOptions* options);
  std::string key() const;
};

class Domain {
 public:
  // Opens the device. Throws Error.
  Domain(const abi::Api& api, const Request& request);

  const abi::Api& api() const { return api_; }
  opencl::Context* context() const { return context_; }  // null: the CPU
  void add_to(abi::OrtSessionOptions* options) const;

 private:
  abi::Api api_;
  opencl::Context* context_ = nullptr;
  abi::OrtCustomOpDomain* handle_ = nullptr;
  std::vector<std::unique_ptr<CustomOp>> ops_;
  std::shared_ptr<abi::OrtCustomOp> probe_;
};

// The functions of an operator; custom_op.cpp.
std::unique_ptr<CustomOp> make_custom_op(const Domain& domain, const Schema& schema, Type real,
                                         Type indices);
// The operator that exercises the interface; probe.cpp. `api` must outlive it.
std::shared_ptr<abi::OrtCustomOp> make_probe(const abi::Api& api);

// Makes a kernel for a node, and computes it; kernel.cpp.
abi::OrtStatus* create_kernel(const abi::OrtCustomOp* op, const void* api,
                              const abi::OrtKernelInfo* info, void** kernel);
abi::OrtStatus* compute_kernel(void* kernel, abi::OrtKernelContext* context);
void destroy_kernel(void* kernel);

// Shape inference when a model is loaded; shapes.cpp.
abi::OrtStatus* infer_shapes(const abi::OrtCustomOp* op, abi::OrtShapeInferContext* context);

}  // namespace rx::door
