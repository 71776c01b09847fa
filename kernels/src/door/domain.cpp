#include "door/domain.h"

#include <cstdlib>
#include <utility>

#include "base/error.h"

namespace rx::door {
namespace {

std::string setting(const abi::Api& api, const abi::OrtSessionOptions* options, const char* name,
                    const std::string& otherwise) {
  const std::string key = std::string(kDomain) + "." + name;
  int there = 0;
  api.check(api.HasSessionConfigEntry(options, key.c_str(), &there));
  if (there == 0) return otherwise;
  return abi::read_text(api, [&](char* out, std::size_t* size) {
    return api.GetSessionConfigEntry(options, key.c_str(), out, size);
  });
}

bool uses_indices(const Schema& schema) {
  for (const InputSchema& one : schema.inputs)
    if (one.role == Role::kIndices) return true;
  return false;
}

}  // namespace

Request Request::of(const abi::Api& api, const abi::OrtSessionOptions* options) {
  const char* device = std::getenv("ONNXSLIM_RX_DEVICE");
  Request request;
  request.device = setting(api, options, "device", device == nullptr ? "auto" : device);
  request.settings = opencl::default_settings();
  for (const auto& [name, value] :
       {std::pair{"opencl", &request.settings.libraries},
        std::pair{"cache", &request.settings.cache}, std::pair{"params", &request.settings.params}})
    *value = setting(api, options, name, *value);
  request.probe = setting(api, options, "probe", "") == "1";
  return request;
}

std::string Request::key() const {
  return text(device, '\n', settings.libraries, '\n', settings.cache, '\n', settings.params, '\n',
              probe);
}

Domain::Domain(const abi::Api& api, const Request& request)
    : api_(api), context_(opencl::context(request.device, request.settings)) {
  for (const Schema& schema : schemas())
    for (const Type real : {Type::kFloat, Type::kHalf}) {
      if (!uses_indices(schema)) {
        ops_.push_back(make_custom_op(*this, schema, real, Type::kNone));
        continue;
      }
      for (const Type indices : {Type::kInt32, Type::kInt64})
        ops_.push_back(make_custom_op(*this, schema, real, indices));
    }
  api_.check(api_.CreateCustomOpDomain(kDomain, &handle_));
  for (const auto& op : ops_) api_.check(api_.CustomOpDomain_Add(handle_, op.get()));
  if (!request.probe) return;
  probe_ = make_probe(api_);
  api_.check(api_.CustomOpDomain_Add(handle_, probe_.get()));
}

void Domain::add_to(abi::OrtSessionOptions* options) const {
  api_.check(api_.AddCustomOpDomain(options, handle_));
}

}  // namespace rx::door
