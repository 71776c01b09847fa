// What the C functions of the library return as JSON, and their switches.
#pragma once

#include <string>

#include "opencl/context.h"

namespace rx::opencl {

// {"devices": [...], "tried": [...], "error": ""}; an error becomes the last. Never throws Error.
std::string devices_report(const Settings& settings);
// {"ok", "seconds", "checks": [{"name", "ok", "error"}]}: a copy and a small product of its own
// source, checked on the device. "cpu" has nothing to check here. Never throws Error.
std::string selftest_report(const std::string& specification, const Settings& settings);
// {"kernels": [...], "transfers": {...}}
std::string profile_report();

// Switches the profile of the process; on: resets it.
void set_profile(bool on);
// The nth next call of "allocate", "build", "enqueue", "map", "read" or "write" fails, once; 0:
// off. Throws Error for another point.
void set_fault(const std::string& point, int nth);

}  // namespace rx::opencl
