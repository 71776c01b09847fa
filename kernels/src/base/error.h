// What goes wrong inside the library: thrown, and turned into a status at the one C boundary.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace rx {

// Values of OrtErrorCode. EP_FAIL (11) is left out on purpose: onnxruntime's Python wrapper
// answers it by rebuilding the session on other providers.
enum class Code { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9, kInvalidGraph = 10 };

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

// One string of everything given, as an output stream writes it.
template <typename... Parts>
std::string text(Parts&&... parts) {
  std::ostringstream out;
  (out << ... << std::forward<Parts>(parts));
  return out.str();
}

// Refuses what the caller gave.
template <typename... Parts>
[[noreturn]] void refuse(Parts&&... parts) {
  throw Error(Code::kInvalidArgument, text(std::forward<Parts>(parts)...));
}

// Refuses unless `holds`.
template <typename... Parts>
void require(bool holds, Parts&&... parts) {
  if (!holds) refuse(std::forward<Parts>(parts)...);
}

}  // namespace rx
