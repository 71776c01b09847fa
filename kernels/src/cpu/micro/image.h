// What convolutions need besides products: panels of pixels, and filters of one channel.
#pragma once

#include "cpu/micro/vec.h"

namespace rx::cpu {
namespace {

inline void copy_panel_row(const float* from, float* to) {
#pragma GCC unroll 4
  for (std::int64_t at = 0; at < kPanel; at += kLanes) store(to + at, load(from + at));
}

// Each run is copied as 16 numbers where the image has them: what lies beyond the run is written
// again by the next run, or by the next row, and `to` has 16 numbers more than the panel.
void pack_pixels(const PixelPanel& p) {
  for (std::int64_t k = 0; k < p.k; ++k) {
    for (std::int64_t r = 0; r < p.run_count; ++r) {
      const float* from = p.image + p.offsets[k] + p.runs[r].from;
      float* to = p.to + k * kPanel + p.runs[r].to;
      if (p.end - from >= kPanel) {
        copy_panel_row(from, to);
      } else {
        for (std::int64_t at = 0; at < p.runs[r].size; ++at) to[at] = from[at];
      }
    }
  }
}

void every_second(const float* from, float* to, std::int64_t count) {
  std::int64_t at = 0;
#if defined(__SSE2__)
  for (; at + 4 < count; at += 4)  // strictly: the last of the 8 numbers is not one of ours
    _mm_storeu_ps(to + at, _mm_shuffle_ps(_mm_loadu_ps(from + 2 * at),
                                          _mm_loadu_ps(from + 2 * at + 4), 0x88));
#endif
  for (; at < count; ++at) to[at] = from[2 * at];
}

template <int kVectors>
inline void tap_vectors(const TapRow& t, std::int64_t at) {
  Floats sums[kVectors] = {};
  for (std::int64_t tap = 0; tap < t.count; ++tap) {
    const float* from = t.x + t.offsets[tap] + at;
    const Floats weight = splat(t.taps[tap]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[v] += weight * load(from + v * kLanes);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) store(t.y + at + v * kLanes, sums[v]);
}

// The last vector reaches back over numbers that are there already.
void tap_row(const TapRow& t) {
  std::int64_t at = 0;
  for (; at + 4 * kLanes <= t.columns; at += 4 * kLanes) tap_vectors<4>(t, at);
  for (; at + kLanes <= t.columns; at += kLanes) tap_vectors<1>(t, at);
  if (at == t.columns) return;
  if (t.columns >= kLanes) return tap_vectors<1>(t, t.columns - kLanes);
  for (; at < t.columns; ++at) {
    float sum = 0;
    for (std::int64_t tap = 0; tap < t.count; ++tap) sum += t.taps[tap] * t.x[t.offsets[tap] + at];
    t.y[at] = sum;
  }
}

}  // namespace
}  // namespace rx::cpu
