#include "opencl/descriptor.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <sstream>

#include "base/error.h"

namespace rx::opencl {
namespace {

using json::Value;

// A name that C and the expressions can use.
const std::string& checked_name(const std::string& name, const Value& at) {
  const auto part = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
  require(!name.empty() && std::all_of(name.begin(), name.end(), part) &&
              std::isdigit(static_cast<unsigned char>(name[0])) == 0,
          at.place(), ": '", name, "' is no name");
  return name;
}

void add_name(Descriptor& out, const std::string& name, const Value& at) {
  checked_name(name, at);
  require(std::find(out.names.begin(), out.names.end(), name) == out.names.end(), at.place(),
          ": the name ", name, " is there twice");
  out.names.push_back(name);
}

// With the place in the file in front of what is wrong. Without sizes where legality is decided,
// which knows none.
Expression expression(const Value& value, const Descriptor& out, bool with_sizes = true) {
  const std::string written = value.is_integer() ? std::to_string(value.integer()) : value.string();
  std::vector<std::string> names = out.names;
  if (!with_sizes) std::fill_n(names.begin(), out.sizes, "");
  try {
    return Expression(written, names);
  } catch (const Error& error) {
    refuse(value.place(), ": ", error.what());
  }
}

std::vector<Expression> expressions(const Value& value, const Descriptor& out,
                                    bool with_sizes = true) {
  std::vector<Expression> all;
  for (const Value& one : value.array()) all.push_back(expression(one, out, with_sizes));
  return all;
}

Expression expression_or(const Value* value, const char* otherwise, const Descriptor& out) {
  return value != nullptr ? expression(*value, out) : Expression(otherwise, out.names);
}

std::vector<std::int64_t> integers(const Value& value) {
  std::vector<std::int64_t> all;
  for (const Value& one : value.array()) all.push_back(one.integer());
  require(!all.empty(), value.place(), ": expected at least one value");
  return all;
}

void read_settings(const Value& table, Descriptor& out) {
  for (const Value& one : table.at("sizes").array()) add_name(out, one.string(), one);
  out.sizes = out.names.size();
  for (const auto& [name, values] : table.at("options").object()) {
    add_name(out, name, values);
    const auto all = integers(values);
    out.options.push_back({name, all, all[0]});
  }
  for (const auto& [name, one] : table.at("parameters").object()) {
    add_name(out, name, one);
    const auto all = integers(one.at("values"));
    const std::int64_t otherwise = one.at("default").integer();
    require(std::count(all.begin(), all.end(), otherwise) != 0, one.place(), ": the default ",
            otherwise, " is none of the values");
    out.parameters.push_back({name, all, otherwise});
  }
}

Values parameters_of(const Value* table, const Descriptor& out) {
  Values values;
  if (table == nullptr) return values;
  for (const auto& [name, value] : table->object()) {
    const auto known = [&, &name = name](const Setting& one) { return one.name == name; };
    const auto found = std::find_if(out.parameters.begin(), out.parameters.end(), known);
    require(found != out.parameters.end(), value.place(), ": there is no parameter ", name);
    require(std::count(found->values.begin(), found->values.end(), value.integer()) != 0,
            value.place(), ": ", value.integer(), " is no value of ", name);
    values[name] = value.integer();
  }
  return values;
}

void read_from_sizes(const Value& table, Descriptor& out) {
  for (const auto& [name, value] : table.object()) {
    std::size_t place = 0;
    while (place < out.options.size() && out.options[place].name != name) ++place;
    require(place < out.options.size(), value.place(), ": there is no option ", name);
    out.from_sizes.push_back({out.first_option() + place, expression(value, out)});
  }
}

void read_rules(const Value& table, Descriptor& out) {
  if (const Value* from_sizes = table.find("from_sizes")) read_from_sizes(*from_sizes, out);
  if (const Value* classes = table.find("classes"))
    for (const Value& one : classes->array())
      out.classes.push_back({one.at("name").string(), expression(one.at("when"), out),
                             parameters_of(one.find("parameters"), out)});
  if (const Value* derived = table.find("derived")) {
    for (const auto& [name, one] : derived->object()) {
      out.derived.push_back(expression(one, out, false));
      add_name(out, name, one);
    }
  }
  if (const Value* constraints = table.find("constraints"))
    out.constraints = expressions(*constraints, out, false);
  if (const Value* fits = table.find("fits")) out.fits = expressions(*fits, out);
}

KernelShape read_kernel(const std::string& name, const Value& one, const Descriptor& out) {
  KernelShape shape{checked_name(name, one), expressions(one.at("global"), out),
                    expressions(one.at("local"), out),
                    expression_or(one.find("local_bytes"), "0", out),
                    expression_or(one.find("when"), "1", out)};
  require(shape.global.size() == shape.local.size() && !shape.global.empty() &&
              shape.global.size() <= 3,
          one.place(), ": global and local need the same number of axes, 1 to 3");
  while (shape.global.size() < 3) {
    shape.global.emplace_back("1", out.names);
    shape.local.emplace_back("1", out.names);
  }
  return shape;
}

}  // namespace

void Descriptor::derive(Row& row) const {
  for (std::size_t i = 0; i < derived.size(); ++i)
    row[first_derived() + i] = derived[i].evaluate(row);
}

bool Descriptor::legal(const Row& row) const try {
  return std::all_of(constraints.begin(), constraints.end(),
                     [&](const Expression& one) { return one.evaluate(row) != 0; });
} catch (const Error&) {
  return false;
}

std::string Descriptor::defines(const Row& row) const {
  std::string out;
  for (std::size_t i = first_option(); i < first_derived(); ++i)
    out += " -D" + names[i] + "=" + std::to_string(row[i]);
  return out;
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(Code::kFail, text("the file ", path, " cannot be read"));
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string expanded(const std::string& folder, const std::string& file, int depth) {
  require(depth < 16, "the includes of ", file, " never end");
  require(file.find('/') == file.npos, "the include '", file, "' is in another folder");
  const std::string kStart = "#include \"";
  std::istringstream lines(read_text(folder + "/" + file));
  std::string out;
  for (std::string line; std::getline(lines, line);) {
    const bool include = line.compare(0, kStart.size(), kStart) == 0 &&
                         line.size() > kStart.size() + 1 && line.back() == '"';
    if (include)
      out +=
          expanded(folder, line.substr(kStart.size(), line.size() - kStart.size() - 1), depth + 1);
    else
      out += line + "\n";
  }
  return out;
}

Descriptor read_descriptor(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name + ".json";
  const Value table = json::parse(read_text(path), path);
  Descriptor out;
  out.family = name;
  require(table.at("family").string() == name, table.at("family").place(), ": expected \"", name,
          "\"");
  read_settings(table, out);
  read_rules(table, out);
  for (const auto& [kernel, one] : table.at("kernels").object())
    out.kernels.push_back(read_kernel(kernel, one, out));
  require(!out.kernels.empty(), table.at("kernels").place(), ": expected at least one kernel");
  out.source = expanded(folder, table.at("source").string());
  return out;
}

}  // namespace rx::opencl
