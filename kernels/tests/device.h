// A device to test on: the one that ONNXSLIM_RX_OPENCL (and the system's loader) gives.
#pragma once

#include <cstdlib>
#include <string>

#include "folder.h"
#include "opencl/context.h"

namespace rx::test {

inline const char* const kFamilySource = R"(
#ifndef STEP
#define STEP 1
#endif
#ifndef WG
#define WG 64
#endif
__kernel void add(int count, float value, __global const float* x, __global float* y) {
  for (int i = (int)get_global_id(0) * STEP; i < ((int)get_global_id(0) + 1) * STEP; ++i)
    if (i < count) y[i] = x[i] + value;
}
__kernel void nothing(int count) {}
)";

inline const char* const kFamily = R"json({
  "family": "add", "source": "add.cl", "sizes": ["N"],
  "options": {"FLAVOUR": [0, 1, 2, 3]},
  "parameters": {"WG": {"values": [16, 64], "default": 64},
                 "STEP": {"values": [1, 4], "default": 1}},
  "kernels": {"add": {"global": ["round_up(ceil_div(N, STEP), WG)"], "local": ["WG"]},
              "nothing": {"global": ["WG"], "local": ["WG"]},
              "odd": {"global": ["WG + 1"], "local": ["WG"]},
              "huge": {"global": ["N * WG * 1000000000"], "local": ["WG"], "when": "N > 5"}}
})json";

// With the family "add", a broken one, and no cache unless it is given.
class Place {
 public:
  explicit Place(const std::string& cache = "") {
    folder_.write("cl/add.cl", kFamilySource);
    folder_.write("cl/add.json", kFamily);
    folder_.write("cl/broken.cl", "__kernel void k(int n) {\n  undeclared_thing = n;\n}\n");
    folder_.write("cl/broken.json", R"({"family": "broken", "source": "broken.cl", "sizes": ["N"],
      "options": {}, "parameters": {}, "kernels": {"k": {"global": ["N"], "local": ["1"]}}})");
    settings_ = opencl::default_settings();
    settings_.kernels = folder_.path();
    settings_.cache = cache.empty() ? "" : folder_.path() + "/" + cache;
  }
  const opencl::Settings& settings() const { return settings_; }
  const Folder& folder() const { return folder_; }

  opencl::Context& context() const { return *opencl::context(wanted(), settings_); }

  static std::string wanted() {
    const char* name = std::getenv("ONNXSLIM_RX_DEVICE");
    return name != nullptr && std::string(name).find("opencl") == 0 ? name : "opencl";
  }
  static bool none() {
    opencl::Device device;
    try {
      opencl::choose(wanted(), opencl::default_settings().libraries, device);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "skipped: %s\n", error.what());
      return true;
    }
    return false;
  }

 private:
  Folder folder_;
  opencl::Settings settings_;
};

}  // namespace rx::test
