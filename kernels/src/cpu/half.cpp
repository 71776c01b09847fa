#include "cpu/half.h"

#include "cpu/kernels.h"

namespace rx::cpu {

void to_float(const std::uint16_t* from, float* to, std::int64_t count) {
  kernels().to_float(from, to, count);
}

void to_half(const float* from, std::uint16_t* to, std::int64_t count) {
  kernels().to_half(from, to, count);
}

}  // namespace rx::cpu
