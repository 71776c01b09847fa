// Vectors of kLanes numbers: the compiler's own vector types, so that one source serves all
// instruction sets. RX_LANES is set by the file that includes this.
//
// All of micro/ lies in an unnamed namespace and calls nothing inline of the standard library: a
// linker that keeps one of several copies of an inline function could otherwise choose one that
// was compiled for another instruction set.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace rx::cpu {
namespace {

constexpr std::int64_t kLanes = RX_LANES;

typedef float Floats __attribute__((vector_size(4 * RX_LANES)));
typedef std::int32_t Ints __attribute__((vector_size(4 * RX_LANES)));
typedef std::uint32_t Words __attribute__((vector_size(4 * RX_LANES)));
typedef std::int8_t Bytes __attribute__((vector_size(RX_LANES)));

template <typename To, typename From>
inline To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <typename Vector>
inline Vector load_as(const void* from) {
  Vector to;
  __builtin_memcpy(&to, from, sizeof to);
  return to;
}

inline Floats load(const float* from) {
  return load_as<Floats>(from);
}
inline void store(float* to, Floats from) {
  __builtin_memcpy(to, &from, sizeof from);
}

// The first `count` numbers, less than kLanes; what is not loaded is 0.
inline Floats load_some(const float* from, std::int64_t count) {
#if RX_LANES == 16
  return bits_of<Floats>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from));
#else
  Floats to = {};
  __builtin_memcpy(&to, from, static_cast<std::uint64_t>(count) * sizeof(float));
  return to;
#endif
}

inline void store_some(float* to, Floats from, std::int64_t count) {
#if RX_LANES == 16
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), bits_of<__m512>(from));
#else
  __builtin_memcpy(to, &from, static_cast<std::uint64_t>(count) * sizeof(float));
#endif
}

inline Floats splat(float x) {
#if RX_LANES == 16
  return Floats{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif RX_LANES == 8
  return Floats{x, x, x, x, x, x, x, x};
#else
  return Floats{x, x, x, x};
#endif
}

inline Words splat_word(std::uint32_t x) {
#if RX_LANES == 16
  return Words{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif RX_LANES == 8
  return Words{x, x, x, x, x, x, x, x};
#else
  return Words{x, x, x, x};
#endif
}

// a where the mask has all bits set, else b.
inline Floats select(Ints mask, Floats a, Floats b) {
  return bits_of<Floats>((mask & bits_of<Ints>(a)) | (~mask & bits_of<Ints>(b)));
}

// Signed bytes to numbers; in instructions, as GCC 12 takes the conversion of vectors apart.
inline Floats floats_of(const std::int8_t* bytes) {
#if RX_LANES == 16
  return bits_of<Floats>(_mm512_maskz_cvtepi32_ps(
      0xffff, _mm512_maskz_cvtepi8_epi32(
                  0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)))));
#elif RX_LANES == 8
  return bits_of<Floats>(_mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)))));
#elif defined(__SSE2__)
  int four;
  __builtin_memcpy(&four, bytes, sizeof four);
  const __m128i high = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_cvtsi32_si128(four));
  const __m128i higher = _mm_unpacklo_epi16(_mm_setzero_si128(), high);
  return bits_of<Floats>(_mm_cvtepi32_ps(_mm_srai_epi32(higher, 24)));
#else
  return __builtin_convertvector(__builtin_convertvector(load_as<Bytes>(bytes), Ints), Floats);
#endif
}

inline std::int64_t least(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

}  // namespace
}  // namespace rx::cpu
