#include "opencl/profile.h"

#include <sstream>

#include "base/json.h"

namespace rx::opencl {

Profile& Profile::all() {
  static auto* one = new Profile;
  return *one;
}

void Profile::set(bool on) {
  const std::lock_guard<std::mutex> lock(guard_);
  if (on) {
    kernels_.clear();
    up_ = down_ = {};
  }
  on_.store(on);
}

void Profile::add(const std::string& family, const std::string& kernel, const std::string& device,
                  const Kernel& more) {
  const std::lock_guard<std::mutex> lock(guard_);
  Kernel& sum = kernels_[{family, kernel, device}];
  sum.launches += more.launches;
  sum.seconds += more.seconds;
  sum.host_seconds += more.host_seconds;
  sum.bytes += more.bytes;
  sum.flops += more.flops;
}

void Profile::add_transfer(bool up, double bytes, double seconds) {
  const std::lock_guard<std::mutex> lock(guard_);
  Transfers& sum = up ? up_ : down_;
  sum.bytes += bytes;
  sum.seconds += seconds;
}

std::string Profile::json() const {
  const std::lock_guard<std::mutex> lock(guard_);
  std::ostringstream out;
  out.precision(12);
  out << "{\"kernels\": [";
  const char* between = "";
  for (const auto& [key, sum] : kernels_) {
    const auto& [family, kernel, device] = key;
    out << between << "{\"family\": " << json::quoted(family)
        << ", \"kernel\": " << json::quoted(kernel) << ", \"device\": " << json::quoted(device)
        << ", \"launches\": " << sum.launches << ", \"seconds\": " << sum.seconds
        << ", \"host_seconds\": " << sum.host_seconds << ", \"bytes\": " << sum.bytes
        << ", \"flops\": " << sum.flops << "}";
    between = ", ";
  }
  out << "], \"transfers\": {\"up_bytes\": " << up_.bytes << ", \"up_seconds\": " << up_.seconds
      << ", \"down_bytes\": " << down_.bytes << ", \"down_seconds\": " << down_.seconds << "}}";
  return out.str();
}

}  // namespace rx::opencl
