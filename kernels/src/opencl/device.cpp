#include "opencl/device.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "base/error.h"

namespace rx::opencl {
namespace {

std::string trimmed(const std::string& text) {
  const char* kSpace = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return "";
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

// Strings and numbers that a driver does not know stay empty or 0.
template <typename Get, typename Id>
std::string text_info(Get get, Id id, cl_uint what) {
  std::size_t size = 0;
  if (get(id, what, 0, nullptr, &size) != kSuccess || size == 0) return "";
  std::string out(size, '\0');
  if (get(id, what, size, out.data(), nullptr) != kSuccess) return "";
  return trimmed(out.c_str());  // ends at the terminating zero
}

template <typename T>
T number_info(const Api& api, cl_device_id id, cl_uint what) {
  T value{};
  return api.clGetDeviceInfo(id, what, sizeof value, &value, nullptr) == kSuccess ? value : T{};
}

bool has_word(const std::string& text, const std::string& word) {
  return (" " + text + " ").find(" " + word + " ") != std::string::npos;
}

Device described(const Api& api, cl_platform_id platform, cl_device_id id) {
  const auto text_of = [&](cl_uint what) { return text_info(api.clGetDeviceInfo, id, what); };
  Device out;
  out.api = &api;
  out.platform = platform;
  out.id = id;
  const auto type = number_info<cl_bitfield>(api, id, kDeviceType);
  out.kind = (type & kDeviceTypeGpu) != 0   ? Kind::kGpu
             : (type & kDeviceTypeCpu) != 0 ? Kind::kCpu
                                            : Kind::kAccelerator;
  out.platform_name = text_info(api.clGetPlatformInfo, platform, kPlatformName);
  out.platform_version = text_info(api.clGetPlatformInfo, platform, kPlatformVersion);
  out.name = text_of(kDeviceName);
  out.vendor = text_of(kDeviceVendor);
  out.driver = text_of(kDriverVersion);
  out.opencl = text_of(kDeviceVersion);
  const Recognised known = recognise(out.name, text_of(kDeviceBoardNameAmd));
  out.architecture = known.architecture;
  out.card = known.card;
  out.units = number_info<cl_uint>(api, id, kDeviceMaxComputeUnits);
  out.memory = number_info<cl_ulong>(api, id, kDeviceGlobalMemory);
  out.most_at_once = number_info<cl_ulong>(api, id, kDeviceMaxAllocation);
  out.local_memory = number_info<cl_ulong>(api, id, kDeviceLocalMemory);
  out.work_group = number_info<std::size_t>(api, id, kDeviceMaxWorkGroupSize);
  std::size_t items[8] = {};
  api.clGetDeviceInfo(id, kDeviceMaxWorkItemSizes, sizeof items, items, nullptr);
  std::copy(items, items + 3, out.items.begin());
  out.alignment =
      std::max<std::size_t>(number_info<cl_uint>(api, id, kDeviceBaseAddressAlign) / 8, 128);
  out.fp16 = has_word(text_of(kDeviceExtensions), "cl_khr_fp16");
  out.unified = out.kind == Kind::kCpu || number_info<cl_bool>(api, id, kDeviceUnifiedMemory) != 0;
  return out;
}

std::vector<cl_device_id> ids_of(const Platform& platform) {
  cl_uint count = 0;
  if (platform.api->clGetDeviceIDs(platform.id, kDeviceTypeAll, 0, nullptr, &count) != kSuccess)
    return {};
  std::vector<cl_device_id> ids(count);
  if (count == 0 || platform.api->clGetDeviceIDs(platform.id, kDeviceTypeAll, count, ids.data(),
                                                 nullptr) != kSuccess)
    return {};
  return ids;
}

// Adds the platforms of a library, without those that another library gave.
void add(Devices& all, std::vector<cl_platform_id>& seen, const std::string& path) {
  const Library& one = library(path);
  all.tried.push_back(one.tried);
  for (const Platform& platform : one.platforms) {
    if (std::find(seen.begin(), seen.end(), platform.id) != seen.end()) continue;
    seen.push_back(platform.id);
    std::size_t index = 0;
    for (const cl_device_id id : ids_of(platform)) {
      Device device = described(*platform.api, platform.id, id);
      device.platform_index = all.platforms;
      device.device_index = index++;
      if (number_info<cl_bool>(*platform.api, id, kDeviceAvailable) != 0 &&
          number_info<cl_bool>(*platform.api, id, kDeviceCompilerAvailable) != 0)
        all.devices.push_back(std::move(device));
    }
    ++all.platforms;
  }
}

// The system's loader under the first name that works.
void add_system(Devices& all, std::vector<cl_platform_id>& seen) {
  for (const std::string& name : loader_names()) {
    add(all, seen, name);
    if (all.tried.back().found) return;
  }
}

const Device* first_gpu(const Devices& all) {
  for (const Device& device : all.devices)
    if (device.kind == Kind::kGpu) return &device;
  return nullptr;
}

std::string summary(const Devices& all) {
  std::string out;
  for (const Device& device : all.devices)
    out += text(out.empty() ? "devices found: " : "; ", "opencl:", device.platform_index, ":",
                device.device_index, " ", device.name, " (", device.platform_name, ")");
  if (all.devices.empty()) out = "no OpenCL device was found";
  for (const Tried& tried : all.tried)
    if (!tried.found) out += text("; tried ", tried.library, ": ", tried.error);
  return out;
}

// "opencl:P:D".
bool parse_place(const std::string& text, std::size_t& platform, std::size_t& device) {
  const std::string kPrefix = "opencl:";
  if (text.compare(0, kPrefix.size(), kPrefix) != 0) return false;
  const std::size_t middle = text.find(':', kPrefix.size());
  if (middle == text.npos) return false;
  const auto number = [](const std::string& digits, std::size_t& out) {
    if (digits.empty() || digits.size() > 6) return false;
    if (!std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c); }))
      return false;
    out = std::strtoul(digits.c_str(), nullptr, 10);
    return true;
  };
  return number(text.substr(kPrefix.size(), middle - kPrefix.size()), platform) &&
         number(text.substr(middle + 1), device);
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// "gfx803" of "AMD Radeon RX 580 (radeonsi, polaris10, LLVM 15)" or of "gfx803:xnack-".
std::string gfx_of(const std::string& text) {
  const std::size_t at = text.find("gfx");
  if (at == text.npos) return "";
  std::size_t end = at + 3;
  while (end < text.size() && std::isxdigit(static_cast<unsigned char>(text[end]))) ++end;
  return end - at >= 6 ? text.substr(at, end - at) : "";
}

// "RX 580" where the text names a card of that generation, RX 460 to RX 590.
std::string card_of(const std::string& text) {
  for (std::size_t at = text.find("rx"); at != text.npos; at = text.find("rx", at + 2)) {
    const std::size_t start = at + (text.compare(at + 2, 1, " ") == 0 ? 3 : 2);
    const std::string number = text.substr(std::min(start, text.size()), 3);
    const bool longer =
        start + 3 < text.size() && std::isdigit(static_cast<unsigned char>(text[start + 3])) != 0;
    for (const char* known : {"460", "470", "480", "540", "550", "560", "570", "580", "590"})
      if (number == known && !longer) return "RX " + number;
  }
  return "";
}

}  // namespace

Recognised recognise(const std::string& name, const std::string& board) {
  const std::string all = lower(board + " | " + name);
  Recognised out{gfx_of(all), card_of(all)};
  // Names of the chips: of AMD's drivers (Ellesmere is Polaris 10 and 20, Baffin 11 and 21, Lexa
  // 12 and 23) and of Mesa's. LLVM calls the instruction set of all of them gfx803.
  for (const char* chip : {"ellesmere", "baffin", "lexa", "polaris"})
    if (out.architecture.empty() && all.find(chip) != all.npos) out.architecture = "gfx803";
  if (out.architecture.empty() && !out.card.empty()) out.architecture = "gfx803";
  if (out.architecture == "gfx804") out.architecture = "gfx803";  // an older name of Polaris 12
  return out;
}

Devices devices(const std::string& libraries) {
  Devices all;
  std::vector<cl_platform_id> seen;
  add_system(all, seen);
  for (const std::string& path : paths_of(libraries)) add(all, seen, path);
  return all;
}

bool choose(const std::string& specification, const std::string& libraries, Device& chosen) {
  if (specification == "cpu") return false;
  std::size_t platform = 0;
  std::size_t place = 0;
  const bool automatic = specification == "auto";
  const bool any = specification == "opencl";
  require(automatic || any || parse_place(specification, platform, place), "the device '",
          specification, "' is none of auto, cpu, opencl, opencl:PLATFORM:DEVICE");
  const auto pick = [&](const Devices& all, bool last) -> const Device* {
    if (automatic || any) {
      const Device* gpu = first_gpu(all);
      return gpu == nullptr && any && last && !all.devices.empty() ? &all.devices[0] : gpu;
    }
    for (const Device& device : all.devices)
      if (device.platform_index == platform && device.device_index == place) return &device;
    return nullptr;
  };
  Devices all;
  std::vector<cl_platform_id> seen;
  add_system(all, seen);
  const std::vector<std::string> more = paths_of(libraries);
  const Device* found = pick(all, more.empty());
  for (std::size_t i = 0; i < more.size() && found == nullptr; ++i) {
    add(all, seen, more[i]);
    found = pick(all, i + 1 == more.size());
  }
  if (found == nullptr && automatic) return false;
  if (found == nullptr)
    throw Error(Code::kFail, text("the device '", specification, "' was asked for, but ",
                                  all.devices.empty() ? "" : "is not there: ", summary(all)));
  chosen = *found;
  return true;
}

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kCpu:
      return "cpu";
    case Kind::kGpu:
      return "gpu";
    case Kind::kAccelerator:
      break;
  }
  return "accelerator";
}

}  // namespace rx::opencl
