// The functions of the ONNX Runtime that loaded this library, by name.
#pragma once

#include <string>

#include "abi/slots.h"
#include "abi/types.h"
#include "base/error.h"

namespace rx::abi {

// The oldest version of the interface that we run on (ONNX Runtime 1.17), and the newest whose
// structures are known here. Newer runtimes keep all that older ones had.
constexpr std::uint32_t kOldest = 17;
constexpr std::uint32_t kNewest = 18;
// Older runtimes fall over a null pointer before they call an operator's shape inference, where an
// optional input in front of another is left out.
constexpr std::uint32_t kInfersShapes = 24;

class Api {
 public:
  // Throws Error where the runtime is older than kOldest.
  explicit Api(const OrtApiBase* base);

#define RX_SLOT(name, place, since, parameters) OrtStatus*(*name)parameters = nullptr;
  RX_STATUS_SLOTS(RX_SLOT)
#undef RX_SLOT
#define RX_SLOT(name, result, place, parameters) result(*name) parameters = nullptr;
  RX_PLAIN_SLOTS(RX_SLOT)
#undef RX_SLOT

  // Version that structures are filled in for: not above the runtime's, nor above kNewest.
  std::uint32_t version() const { return version_; }
  // Version of the runtime itself.
  std::uint32_t runtime() const { return runtime_; }
  const void* table() const { return table_; }

  // Throws what a status other than success says, and releases it.
  void check(OrtStatus* status) const;
  // A status that says what `error` says.
  OrtStatus* status_of(const Error& error) const;

 private:
  std::uint32_t version_ = 0;
  std::uint32_t runtime_ = 0;
  const void* const* table_ = nullptr;
};

// Calls `function`, and turns what it throws into a status: the boundary to C.
template <typename Function>
OrtStatus* guarded(const Api& api, Function&& function) noexcept {
  try {
    function();
    return nullptr;
  } catch (const Error& error) {
    return api.status_of(error);
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(static_cast<int>(Code::kFail), "out of memory");
  } catch (const std::exception& error) {
    return api.CreateStatus(static_cast<int>(Code::kFail), error.what());
  } catch (...) {
    return api.CreateStatus(static_cast<int>(Code::kFail), "an unknown exception");
  }
}

// A string that the interface writes in two calls: for its size, and for its text.
template <typename Read>
std::string read_text(const Api& api, Read&& read) {
  std::size_t size = 0;
  if (OrtStatus* status = read(nullptr, &size)) api.ReleaseStatus(status);  // some say "too small"
  std::string found(size, '\0');
  if (size != 0) api.check(read(found.data(), &size));
  while (!found.empty() && found.back() == '\0') found.pop_back();
  return found;
}

}  // namespace rx::abi
