// The functions that Python calls through ctypes. None throws; strings are UTF-8, and stay valid
// until the next call of the same thread.
#include <cstdio>
#include <exception>
#include <string>

#include "base/json.h"
#include "cpu/isa.h"
#include "door/export.h"
#include "opencl/reports.h"

namespace rx::door {
namespace {

// Keeps the text for the caller; a failure becomes {"error": "..."}.
template <typename Make>
const char* kept(Make&& make) noexcept {
  static thread_local std::string text;
  try {
    text = make();
  } catch (const std::exception& error) {
    try {
      text = "{\"error\": " + json::quoted(error.what()) + "}";
    } catch (...) {
      return "{\"error\": \"out of memory\"}";
    }
  } catch (...) {
    return "{\"error\": \"an unknown exception\"}";
  }
  return text.c_str();
}

opencl::Settings settings(const char* libraries) {
  opencl::Settings found = opencl::default_settings();
  if (libraries != nullptr && *libraries != '\0') found.libraries = libraries;
  return found;
}

// What these switches refuse is a mistake in a test; it is told where tests look.
template <typename Function>
void loudly(Function&& function) noexcept {
  try {
    function();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "onnxslim_rx: %s\n", error.what());
  } catch (...) {
    std::fprintf(stderr, "onnxslim_rx: an unknown exception\n");
  }
}

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

}  // namespace
}  // namespace rx::door

extern "C" {

RX_EXPORT int rx_abi() {
  return 1;
}

RX_EXPORT const char* rx_devices(const char* libraries) {
  return rx::door::kept([&] { return rx::opencl::devices_report(rx::door::settings(libraries)); });
}

RX_EXPORT const char* rx_selftest(const char* device, const char* libraries) {
  return rx::door::kept([&] {
    return rx::opencl::selftest_report(device == nullptr ? "auto" : device,
                                       rx::door::settings(libraries));
  });
}

RX_EXPORT void rx_profile(int on) {
  rx::door::loudly([&] { rx::opencl::set_profile(on != 0); });
}

RX_EXPORT const char* rx_profile_read() {
  return rx::door::kept([] { return rx::opencl::profile_report(); });
}

RX_EXPORT void rx_fault(const char* point, int nth) {
  rx::door::loudly([&] { rx::opencl::set_fault(point == nullptr ? "" : point, nth); });
}

RX_EXPORT const char* rx_build() {
  return rx::door::kept([] {
    return "{\"version\": " + rx::json::quoted(RX_VERSION) +
           ", \"compiler\": " + rx::json::quoted(rx::door::compiler()) +
           ", \"cpu\": " + rx::json::quoted(rx::cpu::name_of(rx::cpu::isa())) + "}";
  });
}

}  // extern "C"
