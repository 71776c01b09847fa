// The entry point that ONNX Runtime calls (SessionOptions.register_custom_ops_library).
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "door/domain.h"
#include "door/export.h"

namespace rx::door {
namespace {

// Domains outlive all sessions, and are never freed: sessions may die at the end of the process,
// behind the destructors of this library. There is one for each runtime and request, so that
// sessions made over and over take no further memory.
class Domains {
 public:
  const Domain& get(const abi::Api& api, const Request& request) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<Domain>& found = domains_[{api.table(), request.key()}];
    if (found == nullptr) found = std::make_unique<Domain>(api, request);
    return *found;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<const void*, std::string>, std::unique_ptr<Domain>> domains_;
};

Domains& domains() {
  static auto* all = new Domains;
  return *all;
}

// An error in place of an interface: through the one function that all versions have, the first.
abi::OrtStatus* refused(const abi::OrtApiBase* base, const char* message) {
  const void* table = base == nullptr || base->GetApi == nullptr ? nullptr : base->GetApi(1);
  if (table == nullptr) {
    // No status can be made. The session will say that it lacks the operators; here is why.
    std::fprintf(stderr, "onnxslim_rx: %s\n", message);
    return nullptr;
  }
  using Create = abi::OrtStatus* (*)(int code, const char* message);
  const auto create = *static_cast<const Create*>(table);
  return create(static_cast<int>(Code::kInvalidArgument), message);
}

}  // namespace
}  // namespace rx::door

extern "C" RX_EXPORT rx::abi::OrtStatus* RegisterCustomOps(rx::abi::OrtSessionOptions* options,
                                                           const rx::abi::OrtApiBase* base) {
  using namespace rx;  // NOLINT: inside one function
  std::unique_ptr<abi::Api> api;
  try {
    api = std::make_unique<abi::Api>(base);
  } catch (const std::exception& error) {
    return door::refused(base, error.what());
  }
  return abi::guarded(
      *api, [&] { door::domains().get(*api, door::Request::of(*api, options)).add_to(options); });
}
