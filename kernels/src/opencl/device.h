// Devices of all platforms, what is known of them, and the choice of one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "opencl/api.h"
#include "opencl/loader.h"

namespace rx::opencl {

enum class Kind { kCpu, kGpu, kAccelerator };

struct Device {
  const Api* api = nullptr;
  cl_platform_id platform = nullptr;
  cl_device_id id = nullptr;
  std::size_t platform_index = 0;  // over all libraries
  std::size_t device_index = 0;    // in the platform

  Kind kind = Kind::kGpu;
  std::string platform_name;
  std::string platform_version;
  std::string name;
  std::string vendor;
  std::string driver;
  std::string opencl;        // "OpenCL 1.2 ..."
  std::string architecture;  // "gfx803", or empty
  std::string card;          // "RX 580", or empty
  std::uint32_t units = 0;
  std::uint64_t memory = 0;            // bytes
  std::uint64_t most_at_once = 0;      // bytes of one allocation
  std::uint64_t local_memory = 0;      // bytes of a work-group
  std::size_t work_group = 0;          // work-items
  std::array<std::size_t, 3> items{};  // work-items of a group by axis
  std::size_t alignment = 0;           // bytes that a host pointer must be aligned to
  bool fp16 = false;
  bool unified = false;  // shares the host's memory
};

struct Devices {
  std::vector<Device> devices;
  std::vector<Tried> tried;
  std::size_t platforms = 0;
};

// Every usable device: of the system's loader, then of `libraries` ("a.so:b.so"). A platform that
// both give is listed once.
Devices devices(const std::string& libraries);

// What a specification names: "cpu" gives false; "auto" the first GPU, else false; "opencl" the
// first GPU, else the first device; "opencl:P:D" device D of platform P. `libraries` are opened
// only where the system's loader lacks what is asked for. Throws where "opencl" finds nothing,
// with the platforms found and the libraries tried.
bool choose(const std::string& specification, const std::string& libraries, Device& chosen);

// Of what OpenCL reports as name, vendor and AMD's name of the board.
struct Recognised {
  std::string architecture;
  std::string card;
};
Recognised recognise(const std::string& name, const std::string& board);

const char* name_of(Kind kind);

}  // namespace rx::opencl
