#include "cpu/half.h"

#include <cstring>

namespace rx::cpu {

void to_float(const std::uint16_t* from, float* to, std::int64_t count) {
  for (std::int64_t at = 0; at < count; ++at) {
    const std::uint32_t half = from[at];
    const std::uint32_t sign = (half & 0x8000u) << 16;
    const std::uint32_t rest = half & 0x7fffu;
    std::uint32_t bits;
    if (rest < 0x0400u) {  // 0 and subnormal: rest * 2^-24
      const float value = static_cast<float>(rest) * 5.9604644775390625e-8f;
      std::memcpy(&bits, &value, sizeof bits);
    } else if (rest < 0x7c00u) {
      bits = (rest << 13) + 0x38000000u;
    } else {
      bits = (rest << 13) + 0x70000000u;
    }
    bits |= sign;
    std::memcpy(to + at, &bits, sizeof bits);
  }
}

void to_half(const float* from, std::uint16_t* to, std::int64_t count) {
  for (std::int64_t at = 0; at < count; ++at) {
    std::uint32_t bits;
    std::memcpy(&bits, from + at, sizeof bits);
    const std::uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    std::uint32_t half;
    if (bits > 0x7f800000u) {  // NaN stays NaN
      half = 0x7e00u | (bits >> 13 & 0x3ffu);
    } else if (bits >= 0x477ff000u) {  // 65520 and more round to infinity
      half = 0x7c00u;
    } else if (bits >= 0x38800000u) {
      half = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1)) >> 13;
    } else {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
      float value;
      std::memcpy(&value, &bits, sizeof value);
      value += 0.5f;
      std::uint32_t rounded;
      std::memcpy(&rounded, &value, sizeof rounded);
      half = rounded - 0x3f000000u;
    }
    to[at] = static_cast<std::uint16_t>(sign | half);
  }
}

}  // namespace rx::cpu
