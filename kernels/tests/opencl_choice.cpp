// What needs no device: libraries that are none, names of cards, descriptors, the choice of
// parameters, entries of the program cache.
#include <fstream>
#include <random>

#include "base/error.h"
#include "check.h"
#include "folder.h"
#include "opencl/choice.h"
#include "opencl/device.h"
#include "opencl/faults.h"
#include "opencl/loader.h"
#include "opencl/params.h"
#include "opencl/pool.h"
#include "opencl/program_cache.h"

namespace {

using namespace rx::opencl;
using rx::test::Folder;

const char* const kSource = "#include \"part.clh\"\n__kernel void k() {}\n";
const char* const kDescriptor = R"json({
  "family": "f", "source": "f.cl", "sizes": ["M", "N"],
  "options": {"T": [0, 1], "V": [1, 4]},
  "from_sizes": {"V": "select(N % 4 == 0, 4, 1)"},
  "parameters": {"A": {"values": [8, 16, 32, 64], "default": 16},
                 "B": {"values": [1, 2, 4], "default": 2}},
  "derived": {"G": "A / B", "BYTES": "A * 1024"},
  "constraints": ["A % B == 0", "G >= 4"],
  "fits": ["M <= 1000 * A"],
  "classes": [{"name": "large", "when": "M > 100", "parameters": {"A": 64}},
              {"name": "any", "when": "1"}],
  "kernels": {"k": {"global": ["round_up(M, G)", "N"], "local": ["G", 1], "local_bytes": "BYTES"}}
})json";

Folder* with_family(const std::string& descriptor = kDescriptor) {
  auto* folder = new Folder;
  folder->write("cl/f.json", descriptor);
  folder->write("cl/f.cl", kSource);
  folder->write("cl/part.clh", "// part\n");
  return folder;
}

Descriptor family_of(const std::string& descriptor = kDescriptor) {
  const std::unique_ptr<Folder> folder(with_family(descriptor));
  return read_descriptor(folder->path() + "/cl", "f");
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  if (at == text.npos) throw std::runtime_error("nothing to replace: " + from);
  return text.replace(at, from.size(), to);
}

Device card() {
  Device device;
  device.name = "AMD Radeon RX 580 Series";
  device.vendor = "Advanced Micro Devices, Inc.";
  device.architecture = "gfx803";
  device.card = "RX 580";
  device.local_memory = 65536;
  device.work_group = 256;
  device.items = {256, 256, 256};
  return device;
}

std::int64_t parameter(const Descriptor& family, const std::vector<Tuned>& tuned,
                       const Device& device, std::int64_t m, const std::string& name,
                       std::size_t most = 256) {
  Descriptor::Row row(family.names.size(), 0);
  row[0] = m;
  row[1] = 4;
  row[3] = 4;
  const Descriptor::Row chosen = Chooser(device, family, tuned).choose(row, most);
  const auto found = std::find(family.names.begin(), family.names.end(), name);
  return chosen[static_cast<std::size_t>(found - family.names.begin())];
}

}  // namespace

RX_TEST(libraries_that_are_none) {
  const Library& missing = library("/nowhere/libOpenCL.so");
  CHECK(!missing.tried.found && missing.platforms.empty());
  CHECK(missing.tried.error.find("/nowhere/libOpenCL.so") != std::string::npos);
  const Library& other = library("libm.so.6");
  CHECK(!other.tried.found);
  CHECK(other.tried.error.find("no OpenCL library") != std::string::npos);
  const Folder folder;
  CHECK(!library(folder.write("text.so", "not a library")).tried.found);
  CHECK_EQUAL(paths_of(":a.so::b.so:").size(), std::size_t{2});
  CHECK_EQUAL(paths_of("").size(), std::size_t{0});
}

RX_TEST(choices_that_are_none) {
  Device device;
  CHECK(!choose("cpu", "/nowhere/a.so", device));
  for (const char* wrong : {"", "gpu", "opencl:", "opencl:0", "opencl:0:", "opencl:a:0",
                            "opencl:0:-1", "opencl:0:0:0", "OPENCL", "opencl:99999999:0"})
    CHECK_THROWS("is none of auto, cpu, opencl", choose(wrong, "", device));
  CHECK_THROWS("/nowhere/a.so", choose("opencl:999:0", "/nowhere/a.so", device));
}

RX_TEST(cards_by_name) {
  const struct {
    const char* name;
    const char* board;
    const char* architecture;
    const char* card;
  } kKnown[] = {
      {"Ellesmere", "Radeon RX 580 Series", "gfx803", "RX 580"},
      {"gfx803", "Radeon RX 570 Series", "gfx803", "RX 570"},
      {"gfx804", "", "gfx803", ""},
      {"Baffin", "AMD Radeon (TM) RX 460 Graphics", "gfx803", "RX 460"},
      {"AMD Radeon RX 580 Series (radeonsi, polaris10, LLVM 15.0.7, DRM 3.49, 6.1)", "", "gfx803",
       "RX 580"},
      {"AMD Radeon RX 470 Graphics (POLARIS10, DRM 3.27.0, LLVM 7.0.1)", "", "gfx803", "RX 470"},
      {"Radeon RX590", "", "gfx803", "RX 590"},
      {"AMD Radeon RX 5700 XT", "", "", ""},
      {"gfx1010:xnack-", "Radeon RX 5500", "gfx1010", ""},
      {"gfx90a:sramecc+:xnack-", "", "gfx90a", ""},
      {"NVIDIA GeForce RTX 4800", "", "", ""},
      {"pthread-AMD EPYC", "", "", ""},
      {"rx", "", "", ""},
  };
  for (const auto& one : kKnown) {
    CHECK_EQUAL(recognise(one.name, one.board).architecture, one.architecture);
    CHECK_EQUAL(recognise(one.name, one.board).card, one.card);
  }
}

RX_TEST(descriptors) {
  const Descriptor family = family_of();
  CHECK_EQUAL(family.source, "// part\n__kernel void k() {}\n");
  CHECK_EQUAL(family.names.size(), std::size_t{8});
  Descriptor::Row row{1, 2, 0, 4, 16, 2, 0, 0};
  family.derive(row);
  CHECK_EQUAL(row[6], 8);
  CHECK(family.legal(row));
  CHECK_EQUAL(family.defines(row), " -DT=0 -DV=4 -DA=16 -DB=2");
}

RX_TEST(descriptors_that_are_wrong) {
  const auto wrong = [](const std::string& from, const std::string& to, const std::string& why) {
    CHECK_THROWS(why, family_of(replaced(kDescriptor, from, to)));
  };
  wrong("\"family\": \"f\"", "\"family\": \"g\"", "f.json:2:13: expected \"f\"");
  wrong("\"default\": 16", "\"default\": 17", "the default 17 is none of the values");
  wrong("A / B", "A / C", "at 5: the name C is unknown");
  wrong("A / B", "M / B", "the name M is unknown");
  wrong("\"A\": 64", "\"A\": 65", "65 is no value of A");
  wrong("\"A\": 64", "\"C\": 64", "there is no parameter C");
  wrong("\"sizes\": [\"M\", \"N\"]", "\"sizes\": [\"M\", \"M\"]", "the name M is there twice");
  wrong("\"sizes\": [\"M\", \"N\"]", "\"sizes\": [\"M-N\"]", "is no name");
  wrong("\"T\": [0, 1]", "\"T\": []", "expected at least one value");
  wrong("\"T\": [0, 1]", "\"T\": [0, \"1\"]", "expected an integer");
  wrong("[\"G\", 1]", "[\"G\"]", "same number of axes");
  wrong("\"source\": \"f.cl\"", "\"source\": \"g.cl\"", "g.cl cannot be read");
  wrong("\"source\": \"f.cl\"", "\"source\": \"../f.cl\"", "another folder");
  wrong("{\"V\": \"select", "{\"W\": \"select", "there is no option W");
  CHECK_THROWS("cannot be read", read_descriptor("/nowhere", "f"));
}

RX_TEST(the_choice_of_parameters) {
  const Descriptor family = family_of();
  CHECK_EQUAL(parameter(family, {}, card(), 10, "A"), 16);   // the default
  CHECK_EQUAL(parameter(family, {}, card(), 101, "A"), 64);  // the class
  const std::unique_ptr<Folder> folder(with_family());
  folder->write("params/f.json", R"([
    {"source": "t", "parameters": {"B": 1}},
    {"vendor": "AMD", "source": "t", "parameters": {"B": 4}},
    {"architecture": "gfx803", "class": "large", "source": "t", "parameters": {"A": 32}},
    {"device": "rx 570", "source": "t", "parameters": {"A": 8}},
    {"vendor": "AMD", "source": "t", "options": {"T": 1}, "parameters": {"B": 1}},
    {"vendor": "AMD", "source": "t", "parameters": {"B": 3}}])");
  const auto tuned = tuned_for(card(), family, {folder->path() + "/params", ""});
  CHECK_EQUAL(tuned.size(),
              std::size_t{4});  // another card, and a value that is none, are left out
  CHECK_EQUAL(parameter(family, tuned, card(), 10, "B"), 4);    // the vendor
  CHECK_EQUAL(parameter(family, tuned, card(), 101, "A"), 32);  // the architecture, in its class
  CHECK_EQUAL(parameter(family, tuned, card(), 101, "B"), 2);   // which says nothing of B
  CHECK_EQUAL(tuned_families(card(), folder->path() + "/cl", {folder->path() + "/params"}).size(),
              std::size_t{1});
  Device other = card();
  other.vendor = "AuthenticAMD";
  other.architecture = "";
  other.kind = Kind::kCpu;
  CHECK_EQUAL(tuned_for(other, family, {folder->path() + "/params"}).size(), std::size_t{1});
  folder->write("more/f.json", "[{\"device\": \"RX 580\", \"parameters\": {\"A\": 8}}]");
  const auto mine =
      tuned_for(card(), family, {folder->path() + "/params", folder->path() + "/more"});
  CHECK_EQUAL(parameter(family, mine, card(), 101, "A"), 8);
  folder->write("more/f.json", "[{]");
  CHECK_EQUAL(tuned_for(card(), family, {folder->path() + "/more"}).size(), std::size_t{0});
}

RX_TEST(parameters_that_do_not_fit_the_device) {
  const Descriptor family = family_of();
  Device small = card();
  small.local_memory = 32768;  // A = 64 needs 65536
  CHECK_EQUAL(parameter(family, {}, small, 101, "A"), 32);
  CHECK_EQUAL(parameter(family, {}, card(), 101, "A", 16), 64);  // 64 / 4 work-items
  CHECK_EQUAL(parameter(family, {}, card(), 101, "B", 16), 4);
  CHECK_EQUAL(parameter(family, {}, card(), 9000, "A", 8), 32);  // 9 is the least that fits M
  CHECK_THROWS("no legal parameters of the family f for M=99000, N=4 fit AMD Radeon RX 580",
               parameter(family, {}, card(), 99000, "A"));
  small.local_memory = 4096;
  CHECK_THROWS("4096 bytes of local memory", parameter(family, {}, small, 1, "A"));
}

RX_TEST(entries_of_the_cache) {
  const Folder folder;
  const std::string place = folder.path() + "/deep/er";
  const std::string key("device\0options", 14);
  const std::string binary(
      "\x7F"
      "ELF\0\1\2",
      7);
  CHECK(!read_entry(place, key));
  write_entry(place, key, binary);
  CHECK(read_entry(place, key) == binary);
  CHECK(!read_entry(place, key + "x"));
  CHECK_EQUAL(folder.files("deep/er").size(), std::size_t{1});  // nothing temporary is left
  const std::string path = entry_path(place, key);
  std::ifstream file(path, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  for (std::size_t size = 0; size < whole.size(); ++size) {
    folder.write("deep/er/" + path.substr(path.rfind('/') + 1), whole.substr(0, size));
    CHECK(!read_entry(place, key));
    std::string bent = whole;
    bent[size] = static_cast<char>(bent[size] ^ 0x10);
    folder.write("deep/er/" + path.substr(path.rfind('/') + 1), bent);
    CHECK(!read_entry(place, key));
  }
  folder.write("deep/er/" + path.substr(path.rfind('/') + 1), whole + "x");
  CHECK(!read_entry(place, key));
  write_entry(place, key, binary);
  CHECK(read_entry(place, key) == binary);
  write_entry("/proc/nowhere", key, binary);  // only noted
  CHECK(!read_entry("/proc/nowhere", key));
  write_entry(path, key, binary);  // a file in the way
}

RX_TEST(size_classes) {
  std::size_t last = 0;
  for (std::size_t bytes = 0; bytes < 100000; ++bytes) {
    const std::size_t capacity = size_class(bytes);
    CHECK(capacity >= bytes && capacity >= last && capacity % 16 == 0);
    CHECK(capacity == 256 || capacity <= bytes + bytes / 8 + 1);
    last = capacity;
  }
  CHECK(size_class(SIZE_MAX) == SIZE_MAX);
  CHECK(size_class(SIZE_MAX / 2) >= SIZE_MAX / 2);
}

RX_TEST(faults_count) {
  Faults::set("map", 3);
  CHECK(!Faults::now(Point::kRead));
  CHECK(!Faults::now(Point::kMap));
  CHECK(!Faults::now(Point::kMap));
  CHECK(Faults::now(Point::kMap));
  CHECK(!Faults::now(Point::kMap));
  Faults::set("map", 1);
  Faults::set("map", 0);
  CHECK(!Faults::now(Point::kMap));
  CHECK_THROWS("no fault point 'x'", Faults::set("x", 1));
  CHECK_THROWS("not -1", Faults::set("map", -1));
}

int main() {
  return rx::test::run_all();
}
