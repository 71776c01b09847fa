// float16 as it is stored, to and from float32; to nearest, ties to even, overflow to infinity.
#pragma once

#include <cstdint>

namespace rx::cpu {

void to_float(const std::uint16_t* from, float* to, std::int64_t count);
void to_half(const float* from, std::uint16_t* to, std::int64_t count);

}  // namespace rx::cpu
