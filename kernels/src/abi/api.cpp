#include "abi/api.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace rx::abi {
namespace {

// N of "1.N.P"; 0 where the text is another.
std::uint32_t minor_version(const char* text) {
  unsigned major = 0;
  unsigned minor = 0;
  const bool read = text != nullptr && std::sscanf(text, "%u.%u", &major, &minor) == 2;
  return read && major == 1 ? minor : 0;
}

}  // namespace

Api::Api(const OrtApiBase* base) {
  require(base != nullptr && base->GetApi != nullptr && base->GetVersionString != nullptr,
          "found no interface of ONNX Runtime; expected its OrtApiBase");
  const char* text = base->GetVersionString();
  // A future scheme of versions is asked for the oldest interface, which it must keep.
  const bool is_one = std::strncmp(text, "1.", 2) == 0;
  runtime_ = is_one ? minor_version(text) : kInfersShapes;
  require(runtime_ >= kOldest, "found ONNX Runtime ", text, "; expected 1.", kOldest, " or newer");
  version_ = std::min(runtime_, kNewest);
  table_ = static_cast<const void* const*>(base->GetApi(version_));
  require(table_ != nullptr, "ONNX Runtime ", text, " gives no interface of version ", version_);
#define RX_SLOT(name, place, since, parameters)                                           \
  static_assert(since <= kOldest, #name " is missing from the oldest version we run on"); \
  std::memcpy(&name, table_ + place, sizeof(name));
  RX_STATUS_SLOTS(RX_SLOT)
#undef RX_SLOT
#define RX_SLOT(name, result, place, parameters) std::memcpy(&name, table_ + place, sizeof(name));
  RX_PLAIN_SLOTS(RX_SLOT)
#undef RX_SLOT
}

void Api::check(OrtStatus* status) const {
  if (status == nullptr) return;
  // Codes of ours are kept; others, EP_FAIL among them, become a plain failure.
  const int code = GetErrorCode(status);
  const std::string message = GetErrorMessage(status);
  ReleaseStatus(status);
  const bool ours = code == static_cast<int>(Code::kInvalidArgument) ||
                    code == static_cast<int>(Code::kNotImplemented) ||
                    code == static_cast<int>(Code::kInvalidGraph);
  throw Error(ours ? static_cast<Code>(code) : Code::kFail, message);
}

OrtStatus* Api::status_of(const Error& error) const {
  return CreateStatus(static_cast<int>(error.code()), error.what());
}

}  // namespace rx::abi
