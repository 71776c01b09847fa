// Descriptors of kernel families (cl/NAME.json), read and checked.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/expression.h"
#include "base/json.h"

namespace rx::opencl {

using Values = std::map<std::string, std::int64_t>;

struct Setting {  // an option or a parameter
  std::string name;
  std::vector<std::int64_t> values;
  std::int64_t otherwise = 0;
};

struct FromSizes {  // an option that follows from the sizes where the caller leaves it open
  std::size_t place;
  Expression value;
};

struct SizeClass {
  std::string name;
  Expression when;
  Values parameters;
};

struct KernelShape {
  std::string name;
  std::vector<Expression> global;  // three, in work-items
  std::vector<Expression> local;
  Expression local_bytes;
  Expression when;  // whether these sizes need it
};

// Values are rows of integers in the order of `names`: sizes, options, parameters, derived.
struct Descriptor {
  std::string family;
  std::string source;  // with includes expanded
  std::vector<std::string> names;
  std::size_t sizes = 0;  // how many of the names
  std::vector<Setting> options;
  std::vector<Setting> parameters;
  std::vector<Expression> derived;
  std::vector<Expression> constraints;
  std::vector<Expression> fits;  // what sizes and parameters must satisfy together
  std::vector<FromSizes> from_sizes;
  std::vector<SizeClass> classes;
  std::vector<KernelShape> kernels;

  std::size_t first_option() const { return sizes; }
  std::size_t first_parameter() const { return sizes + options.size(); }
  std::size_t first_derived() const { return first_parameter() + parameters.size(); }

  using Row = std::vector<std::int64_t>;
  void derive(Row& row) const;                // fills the derived places; throws Error
  bool legal(const Row& row) const;           // of a derived row; false where the arithmetic fails
  std::string defines(const Row& row) const;  // " -DNAME=value" of options and parameters
};

// Reads `folder`/NAME.json and its source. Throws Error with file, line and what is wrong.
Descriptor read_descriptor(const std::string& folder, const std::string& name);

// The contents of a file. Throws Error.
std::string read_text(const std::string& path);
// The source with `#include "..."` of the same folder expanded.
std::string expanded(const std::string& folder, const std::string& file, int depth = 0);

}  // namespace rx::opencl
