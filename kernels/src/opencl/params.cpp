#include "opencl/params.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <tuple>

#include "base/error.h"
#include "base/log.h"

namespace rx::opencl {
namespace {

using json::Value;

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::string text_at(const Value& entry, const char* key) {
  const Value* value = entry.find(key);
  return value != nullptr ? value->string() : "";
}

// "AMD" for "Advanced Micro Devices, Inc." and for Mesa's "AMD".
std::string vendor_word(const std::string& vendor) {
  const std::string all = lower(vendor);
  if (all.find("advanced micro") != all.npos || all.find("amd") != all.npos) return "amd";
  for (const char* known : {"nvidia", "intel", "qualcomm", "apple"})
    if (all.find(known) != all.npos) return known;
  if (all == "arm" || all.find("arm ") == 0) return "arm";
  return all;
}

// How closely the entry names this device; -1: it names another.
int level_of(const Value& entry, const Device& device) {
  const std::string vendor = lower(text_at(entry, "vendor"));
  const std::string architecture = lower(text_at(entry, "architecture"));
  const std::string name = lower(text_at(entry, "device"));
  if (!name.empty()) return name == lower(device.name) || name == lower(device.card) ? 3 : -1;
  if (!architecture.empty()) return architecture == lower(device.architecture) ? 2 : -1;
  if (vendor.empty()) return 0;
  if (device.kind == Kind::kCpu) return vendor == lower(device.vendor) ? 1 : -1;  // AuthenticAMD
  return vendor == lower(device.vendor) || vendor_word(vendor) == vendor_word(device.vendor) ? 1
                                                                                             : -1;
}

Values values_of(const Value* table, const std::vector<Setting>& settings) {
  Values out;
  if (table == nullptr) return out;
  for (const auto& [name, value] : table->object()) {
    const auto named = [&, &name = name](const Setting& one) { return one.name == name; };
    const auto found = std::find_if(settings.begin(), settings.end(), named);
    require(found != settings.end(), value.place(), ": the family has no ", name);
    require(std::count(found->values.begin(), found->values.end(), value.integer()) != 0,
            value.place(), ": ", value.integer(), " is no value of ", name);
    out[name] = value.integer();
  }
  return out;
}

void read_file(const std::string& path, const Device& device, const Descriptor& family,
               std::vector<Tuned>& out) {
  const Value all = json::parse(read_text(path), path);
  for (const Value& entry : all.array()) {
    try {
      const int level = level_of(entry, device);
      if (level < 0) continue;
      out.push_back({level, text_at(entry, "class"),
                     values_of(entry.find("options"), family.options),
                     values_of(&entry.at("parameters"), family.parameters)});
    } catch (const Error& error) {
      note(text("tuned parameters are left out: ", error.what()));
    }
  }
}

}  // namespace

std::vector<Tuned> tuned_for(const Device& device, const Descriptor& family,
                             const std::vector<std::string>& folders) {
  std::vector<Tuned> out;
  for (const std::string& folder : folders) {
    const std::string path = folder + "/" + family.family + ".json";
    std::error_code none;
    if (folder.empty() || !std::filesystem::exists(path, none)) continue;
    try {
      read_file(path, device, family, out);
    } catch (const Error& error) {
      note(text("tuned parameters are left out: ", error.what()));
    }
  }
  std::reverse(out.begin(), out.end());  // what comes later wins among equals
  std::stable_sort(out.begin(), out.end(), [](const Tuned& a, const Tuned& b) {
    return std::make_tuple(a.level, !a.size_class.empty(), a.options.size()) >
           std::make_tuple(b.level, !b.size_class.empty(), b.options.size());
  });
  return out;
}

std::vector<std::string> tuned_families(const Device& device, const std::string& cl,
                                        const std::vector<std::string>& folders) {
  std::vector<std::string> out;
  std::error_code none;
  for (const auto& file : std::filesystem::directory_iterator(cl, none)) {
    if (file.path().extension() != ".json") continue;
    try {
      const auto all = tuned_for(device, read_descriptor(cl, file.path().stem()), folders);
      if (!all.empty() && all.front().level > 0) out.push_back(file.path().stem());
    } catch (const Error& error) {
      note(error.what());
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace rx::opencl
