// Tuned parameters of families (params/NAME.json), by device, architecture or vendor.
#pragma once

#include <string>
#include <vector>

#include "opencl/descriptor.h"
#include "opencl/device.h"

namespace rx::opencl {

struct Tuned {
  int level = 0;           // 3: of the device, 2: of its architecture, 1: of its vendor, 0: of all
  std::string size_class;  // of the descriptor; empty: any
  Values options;          // which it is for; others do not matter
  Values parameters;
};

// The entries of `folders` that are for this device, the most specific first: by level, then those
// with a class, then by the number of options, then the later folder. Unreadable or unfit entries
// are left out with a note in the log.
std::vector<Tuned> tuned_for(const Device& device, const Descriptor& family,
                             const std::vector<std::string>& folders);

// The families of `cl` that have parameters for more than any device.
std::vector<std::string> tuned_families(const Device& device, const std::string& cl,
                                        const std::vector<std::string>& folders);

}  // namespace rx::opencl
