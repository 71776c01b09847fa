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

inline float* clear(float* to, std::int64_t count) {
  for (std::int64_t at = 0; at < count; at += kLanes) store(to + at, Floats{});
  return to + count;
}

// Whole vectors are written, whatever is left of a row: what comes next is written over it.
void add_margin(const Margin& m) {
  const std::int64_t row = m.pads[1] + m.columns + m.pads[3];
  const std::int64_t wide = (m.columns + kLanes - 1) / kLanes * kLanes;
  const std::int64_t below = m.pads[2] * row;
  float* to = clear(m.to, m.pads[0] * row + (m.rows == 0 ? below : m.pads[1]));
  const float* from = m.from;
  for (std::int64_t at = 0; at < m.rows; ++at, from += m.columns) {
    if (m.end - from >= wide) {
      for (std::int64_t i = 0; i < wide; i += kLanes) store(to + i, load(from + i));
    } else {
      __builtin_memcpy(to, from, static_cast<std::uint64_t>(m.columns) * sizeof(float));
    }
    // to the right of this row, and what lies before the next one
    to = clear(to + m.columns, m.pads[3] + (at + 1 < m.rows ? m.pads[1] : below));
  }
}

// The taps of a filter: 9 stay in registers, more are read again for each vector.
template <int kTaps>
class Taps {
 public:
  explicit Taps(const TapPlane& t) {
    for (int tap = 0; tap < kTaps; ++tap) {
      weights_[tap] = splat(t.taps[tap * t.step]);
      offsets_[tap] = t.offsets[tap];
    }
  }
  Floats weight(std::int64_t tap) const { return weights_[tap]; }
  std::int64_t offset(std::int64_t tap) const { return offsets_[tap]; }
  std::int64_t count() const { return kTaps; }

 private:
  Floats weights_[kTaps];
  std::int64_t offsets_[kTaps];
};

template <>
class Taps<0> {
 public:
  explicit Taps(const TapPlane& t) : t_(t) {}
  Floats weight(std::int64_t tap) const { return splat(t_.taps[tap * t_.step]); }
  std::int64_t offset(std::int64_t tap) const { return t_.offsets[tap]; }
  std::int64_t count() const { return t_.count; }

 private:
  const TapPlane& t_;
};

template <int kVectors, typename Taps>
inline void tap_vectors(const Taps& taps, const float* x, Floats* sums) {
  for (int v = 0; v < kVectors; ++v) sums[v] = Floats{};
  const std::int64_t count = taps.count();
#pragma GCC unroll 9
  for (std::int64_t tap = 0; tap < count; ++tap) {
    const Floats weight = taps.weight(tap);
    const float* from = x + taps.offset(tap);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[v] += weight * load(from + v * kLanes);
  }
}

template <int kVectors, typename Taps>
inline std::int64_t tap_some(const Taps& taps, const float* x, float* y, std::int64_t at,
                             std::int64_t columns) {
  Floats sums[kVectors];
  for (; at + kVectors * kLanes <= columns; at += kVectors * kLanes) {
    tap_vectors<kVectors>(taps, x + at, sums);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(y + at + v * kLanes, sums[v]);
  }
  return at;
}

// The last vector of a row reaches back over numbers that are there already; that of a narrow image
// reaches into the next row, which is written after it.
template <int kTaps>
inline void tap_rows(const TapPlane& t) {
  const Taps<kTaps> taps(t);
  const float* x = t.x;
  float* y = t.y;
  const float* const end = t.y + t.rows * t.columns;
  for (std::int64_t row = 0; row < t.rows; ++row, x += t.down, y += t.columns) {
    std::int64_t at = tap_some<4>(taps, x, y, 0, t.columns);
    at = tap_some<1>(taps, x, y, at, t.columns);
    if (at == t.columns) continue;
    if (t.columns >= kLanes) at = t.columns - kLanes;
    Floats sums[1];
    tap_vectors<1>(taps, x + at, sums);
    if (end - (y + at) >= kLanes)
      store(y + at, sums[0]);
    else
      store_some(y + at, sums[0], t.columns - at);
  }
}

// Several rows of a narrow image in one vector, what lies between them included.
inline void tap_narrow(const TapPlane& t) {
  constexpr std::int64_t kWide = 4 * kLanes;
  float flat[4 * kWide];
  const Taps<0> taps(t);
  const std::int64_t together = 2 * kWide / t.down;
  for (std::int64_t first = 0; first < t.rows; first += together) {
    const std::int64_t rows = least(together, t.rows - first);
    const std::int64_t size = (rows - 1) * t.down + t.columns;
    for (std::int64_t at = 0; at < size; at += kWide) {
      Floats sums[4];
      tap_vectors<4>(taps, t.x + first * t.down + at, sums);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) store(flat + at + v * kLanes, sums[v]);
    }
    float* y = t.y + first * t.columns;
    for (std::int64_t row = 0; row < rows; ++row, y += t.columns)
      store_some(y, load(flat + row * t.down), t.columns);
  }
}

template <int kTaps>
inline void taps_of(const TapPlane& t) {
  t.columns < kLanes&& t.down < kLanes ? tap_narrow(t) : tap_rows<kTaps>(t);
}

void tap_plane(const TapPlane& t) {
  t.count == 9 ? taps_of<9>(t) : taps_of<0>(t);
}

}  // namespace
}  // namespace rx::cpu
