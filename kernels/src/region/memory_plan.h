// Where values that live for a while lie in one block of memory.
#pragma once

#include <cstddef>
#include <vector>

#include "base/span.h"

namespace rx::region {

// A value: its size in bytes, and the first and last step at which it must be kept, both included.
struct Lifetime {
  std::size_t bytes = 0;
  std::size_t first = 0;
  std::size_t last = 0;
};

struct MemoryPlan {
  std::vector<std::size_t> offsets;  // of each value, multiples of kAlignment
  std::size_t bytes = 0;             // of the block
};

// Start of every value: enough for vector loads, and for sub-buffers of OpenCL devices.
constexpr std::size_t kAlignment = 256;

// Places values so that no two that live at one step overlap, the largest first, each into the
// tightest gap that the values placed before it leave.
//
// Source: Y. Pisarchyk and J. Lee, Efficient Memory Management for Deep Neural Net Inference,
// MLSys 2020 workshop (greedy by size, offset calculation).
MemoryPlan plan_memory(Span<const Lifetime> values);

}  // namespace rx::region
