// float16, as it is stored.
#pragma once

#include "cpu/micro/vec.h"

namespace rx::cpu {
namespace {

inline float float_of(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t rest = half & 0x7fffu;
  std::uint32_t bits;
  if (rest < 0x0400u) {  // 0 and subnormal: rest * 2^-24
    bits = bits_of<std::uint32_t>(static_cast<float>(rest) * 5.9604644775390625e-8f);
  } else if (rest < 0x7c00u) {
    bits = (rest << 13) + 0x38000000u;
  } else {
    bits = (rest << 13) + 0x70000000u;
    if (rest > 0x7c00u) bits |= 0x00400000u;  // a quiet NaN, as the instruction gives
  }
  return bits_of<float>(bits | sign);
}

inline std::uint16_t half_of(float x) {
  const std::uint32_t all = bits_of<std::uint32_t>(x);
  const std::uint32_t bits = all & 0x7fffffffu;
  std::uint32_t half;
  if (bits > 0x7f800000u) {  // NaN stays NaN
    half = 0x7e00u | (bits >> 13 & 0x3ffu);
  } else if (bits >= 0x477ff000u) {  // 65520 and more round to infinity
    half = 0x7c00u;
  } else if (bits >= 0x38800000u) {
    half = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1)) >> 13;
  } else {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    half = bits_of<std::uint32_t>(bits_of<float>(bits) + 0.5f) - 0x3f000000u;
  }
  return static_cast<std::uint16_t>(all >> 16 & 0x8000u) | static_cast<std::uint16_t>(half);
}

void to_float(const std::uint16_t* from, float* to, std::int64_t count) {
  std::int64_t at = 0;
#if defined(__F16C__)
  for (; at + 8 <= count; at += 8)
    _mm256_storeu_ps(to + at,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at))));
#endif
  for (; at < count; ++at) to[at] = float_of(from[at]);
}

void to_half(const float* from, std::uint16_t* to, std::int64_t count) {
  std::int64_t at = 0;
#if defined(__F16C__)
  for (; at + 8 <= count; at += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + at), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; at < count; ++at) to[at] = half_of(from[at]);
}

}  // namespace
}  // namespace rx::cpu
