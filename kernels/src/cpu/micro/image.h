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

constexpr int kTogether = 4;

// Four vectors of sums at once: each tap is read once for all of them.
inline void tap_vectors(const TapPlane& t, const float* const* from, Floats* sums) {
  for (int v = 0; v < kTogether; ++v) sums[v] = Floats{};
  const float *x0 = from[0], *x1 = from[1], *x2 = from[2], *x3 = from[3];
  const float* weight = t.taps;
  for (std::int64_t tap = 0; tap < t.count; ++tap, weight += t.step) {
    const std::int64_t offset = t.offsets[tap];
    const Floats w = splat(*weight);
    sums[0] += w * load(x0 + offset);
    sums[1] += w * load(x1 + offset);
    sums[2] += w * load(x2 + offset);
    sums[3] += w * load(x3 + offset);
  }
}

// Collects vectors, in one row or in several, and computes them by fours.
class TapVectors {
 public:
  explicit TapVectors(const TapPlane& t) : t_(t), end_(t.y + t.rows * t.columns) {}

  void add(const float* from, float* to) {
    from_[count_] = from;
    to_[count_] = to;
    if (++count_ == kTogether) flush();
  }

  // In the order they came in: a vector may reach into what a later one writes, but not beyond y.
  void flush() {
    if (count_ == 0) return;
    for (int v = count_; v < kTogether; ++v) from_[v] = from_[0];
    Floats sums[kTogether];
    tap_vectors(t_, from_, sums);
    for (int v = 0; v < count_; ++v) {
      const std::int64_t left = end_ - to_[v];
      if (left >= kLanes)
        store(to_[v], sums[v]);
      else
        store_some(to_[v], sums[v], left);
    }
    count_ = 0;
  }

 private:
  const TapPlane& t_;
  const float* end_;
  int count_ = 0;
  const float* from_[kTogether];
  float* to_[kTogether];
};

// The last vector of a row reaches back over numbers that are there already; that of a narrow image
// reaches into the next row, which is written after it.
inline void tap_rows(const TapPlane& t) {
  TapVectors vectors(t);
  const float* x = t.x;
  float* y = t.y;
  for (std::int64_t row = 0; row < t.rows; ++row, x += t.down, y += t.columns) {
    std::int64_t at = 0;
    for (; at + kLanes <= t.columns; at += kLanes) vectors.add(x + at, y + at);
    if (at == t.columns) continue;
    if (at != 0) at = t.columns - kLanes;
    vectors.add(x + at, y + at);
  }
  vectors.flush();
}

// Several rows of a narrow image in one vector, what lies between them included.
inline void tap_narrow(const TapPlane& t) {
  constexpr std::int64_t kWide = kTogether * kLanes;
  float flat[4 * kWide];
  const std::int64_t together = 2 * kWide / t.down;
  for (std::int64_t first = 0; first < t.rows; first += together) {
    const std::int64_t rows = least(together, t.rows - first);
    const std::int64_t size = (rows - 1) * t.down + t.columns;
    for (std::int64_t at = 0; at < size; at += kWide) {
      const float* const x = t.x + first * t.down + at;
      const float* const from[kTogether] = {x, x + kLanes, x + 2 * kLanes, x + 3 * kLanes};
      Floats sums[kTogether];
      tap_vectors(t, from, sums);
      for (int v = 0; v < kTogether; ++v) store(flat + at + v * kLanes, sums[v]);
    }
    float* y = t.y + first * t.columns;
    for (std::int64_t row = 0; row < rows; ++row, y += t.columns)
      store_some(y, load(flat + row * t.down), t.columns);
  }
}

void tap_plane(const TapPlane& t) {
  t.columns < kLanes&& t.down < kLanes ? tap_narrow(t) : tap_rows(t);
}

#if RX_LANES == 16
// Four vectors at once; what a mask leaves out is not read.
void tap_masks(const TapMasks& t) {
  for (std::int64_t at = 0; at < t.size; at += kTogether * kLanes) {
    const float* x = t.x + at;
    const std::uint16_t* masks = t.masks + at / kLanes * t.count;
    const std::uint16_t* of[kTogether];
    for (int v = 0; v < kTogether; ++v) of[v] = masks + v * t.count;
    __m512 sums[kTogether] = {};
    const float* weight = t.taps;
    for (std::int64_t tap = 0; tap < t.count; ++tap, weight += t.step) {
      const float* const from = x + t.offsets[tap];
      const __m512 w = _mm512_set1_ps(*weight);
#pragma GCC unroll 4
      for (int v = 0; v < kTogether; ++v)
        sums[v] = _mm512_fmadd_ps(w, _mm512_maskz_loadu_ps(of[v][tap], from + v * kLanes), sums[v]);
    }
    for (int v = 0; v < kTogether; ++v) {
      const std::int64_t rest = t.size - at - v * kLanes;
      if (rest >= kLanes)
        _mm512_storeu_ps(t.y + at + v * kLanes, sums[v]);
      else if (rest > 0)
        store_some(t.y + at + v * kLanes, bits_of<Floats>(sums[v]), rest);
    }
  }
}
#else
constexpr void (*tap_masks)(const TapMasks&) = nullptr;
#endif

}  // namespace
}  // namespace rx::cpu
