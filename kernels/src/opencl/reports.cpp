#include "opencl/reports.h"

#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "opencl/faults.h"
#include "opencl/loader.h"
#include "opencl/params.h"
#include "opencl/profile.h"

namespace rx::opencl {
namespace {

using json::quoted;

const char* word(bool value) {
  return value ? "true" : "false";
}

std::string list(const std::vector<std::string>& all) {
  std::string out = "[";
  for (const std::string& one : all) out += (out.size() > 1 ? ", " : "") + one;
  return out + "]";
}

std::string device_json(const Device& device, const Settings& settings) {
  std::vector<std::string> tuned;
  for (const std::string& family : tuned_families(device, settings.kernels + "/cl",
                                                  {settings.kernels + "/params", settings.params}))
    tuned.push_back(quoted(family));
  return text("{\"platform\": ", quoted(device.platform_name),
              ", \"platform_index\": ", device.platform_index,
              ", \"device_index\": ", device.device_index, ", \"name\": ", quoted(device.name),
              ", \"vendor\": ", quoted(device.vendor), ", \"kind\": ", quoted(name_of(device.kind)),
              ", \"driver\": ", quoted(device.driver), ", \"opencl\": ", quoted(device.opencl),
              ", \"units\": ", device.units, ", \"memory\": ", device.memory,
              ", \"local_memory\": ", device.local_memory, ", \"fp16\": ", word(device.fp16),
              ", \"architecture\": ", quoted(device.architecture),
              ", \"card\": ", quoted(device.card), ", \"tuned\": ", list(tuned),
              ", \"unified\": ", word(device.unified), "}");
}

}  // namespace

std::string devices_report(const Settings& settings) {
  std::vector<std::string> found;
  std::vector<std::string> tried;
  std::string error;
  try {
    refuse_fork();
    const Devices all = devices(settings.libraries);
    for (const Device& device : all.devices) found.push_back(device_json(device, settings));
    for (const Tried& one : all.tried)
      tried.push_back(text("{\"library\": ", quoted(one.library), ", \"found\": ", word(one.found),
                           ", \"error\": ", quoted(one.error), "}"));
  } catch (const std::exception& wrong) {
    error = wrong.what();
  }
  return text("{\"devices\": ", list(found), ", \"tried\": ", list(tried),
              ", \"error\": ", quoted(error), "}");
}

std::string profile_report() {
  return Profile::all().json();
}

void set_profile(bool on) {
  Profile::all().set(on);
}

void set_fault(const std::string& point, int nth) {
  Faults::set(point, nth);
}

}  // namespace rx::opencl
