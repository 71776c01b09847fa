// Convolutions with one input and one output channel a group.
#pragma once

#include <cstdint>

#include "cpu/conv.h"

namespace rx::cpu {

// Filters lie as (channels / 16, depth, 16) if `step` is 16, and as (channels, depth) if it is 1.
void depthwise(Threads& threads, const ConvShape& shape, const float* x, const float* filters,
               std::int64_t step, float* y, const Epilogue& epilogue);

}  // namespace rx::cpu
