// Says what the library makes of descriptors and expressions, line by line, for the comparison with
// tools/kernel_families.py (tests/native/test_twin.py).
//
//   opencl_twin FOLDER < lines
//   expression TEXT|a=1 b=2     ->  value 7
//   family NAME|SIZE=.. OPTION=.. PARAMETER=..
//       ->  legal 0|1 DERIVED=..; class PARAMETER=..; from OPTION=..; KERNEL gx gy gz lx ly lz; ...
// A line that fails gives "error WHY".
#include <algorithm>
#include <iostream>
#include <map>
#include <sstream>

#include "base/error.h"
#include "check.h"
#include "opencl/choice.h"
#include "opencl/descriptor.h"

namespace {

using namespace rx::opencl;

std::vector<std::pair<std::string, std::int64_t>> assigned(const std::string& text) {
  std::vector<std::pair<std::string, std::int64_t>> out;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const std::size_t middle = word.find('=');
    out.emplace_back(word.substr(0, middle), std::stoll(word.substr(middle + 1)));
  }
  return out;
}

std::string of_expression(const std::string& text, const std::string& values) {
  std::vector<std::string> names;
  std::vector<std::int64_t> row;
  for (const auto& [name, value] : assigned(values)) {
    names.push_back(name);
    row.push_back(value);
  }
  return rx::text("value ", rx::Expression(text, names).evaluate(row));
}

void put(std::ostream& out, const Descriptor& family, const Descriptor::Row& row, std::size_t from,
         std::size_t to) {
  for (std::size_t i = from; i < to; ++i) out << " " << family.names[i] << "=" << row[i];
}

std::string of_family(const Descriptor& family, const std::string& values) {
  Descriptor::Row row(family.names.size(), 0);
  for (const auto& [name, value] : assigned(values)) {
    const auto found = std::find(family.names.begin(), family.names.end(), name);
    rx::require(found != family.names.end(), "no name ", name);
    row[static_cast<std::size_t>(found - family.names.begin())] = value;
  }
  std::ostringstream out;
  family.derive(row);
  out << "legal " << family.legal(row);
  put(out, family, row, family.first_derived(), family.names.size());
  Device endless;  // so that the choice is the descriptor's own
  endless.items = {SIZE_MAX / 4, SIZE_MAX / 4, SIZE_MAX / 4};
  endless.local_memory = SIZE_MAX / 4;
  out << "; class";
  try {
    const std::vector<Tuned> none;
    put(out, family, Chooser(endless, family, none).choose(row, SIZE_MAX / 4),
        family.first_parameter(), family.first_derived());
  } catch (const NothingFits&) {
    out << " none";
  }
  out << "; from";
  for (const FromSizes& one : family.from_sizes)
    out << " " << family.names[one.place] << "=" << one.value.evaluate(row);
  for (const KernelShape& kernel : family.kernels) {
    out << "; " << kernel.name;
    for (const auto& axis : kernel.global) out << " " << axis.evaluate(row);
    for (const auto& axis : kernel.local) out << " " << axis.evaluate(row);
  }
  return out.str();
}

std::string answer(const std::string& folder, const std::string& line) {
  static std::map<std::string, Descriptor> families;
  try {
    const std::size_t space = line.find(' ');
    const std::size_t bar = line.find('|');
    const std::string what = line.substr(space + 1, bar - space - 1);
    if (line.substr(0, space) == "expression") return of_expression(what, line.substr(bar + 1));
    auto found = families.find(what);
    if (found == families.end())
      found = families.emplace(what, read_descriptor(folder, what)).first;
    return of_family(found->second, line.substr(bar + 1));
  } catch (const rx::Error& error) {
    return std::string("error ") + error.what();
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return rx::test::kSkipped;
  for (std::string line; std::getline(std::cin, line);)
    std::cout << answer(arguments[1], line) << "\n";
}
