// Products of a strip and panels, in tiles that stay in registers (K. Goto & R. van de Geijn,
// Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34(3), 2008).
#pragma once

#include "cpu/micro/vec.h"

namespace rx::cpu {
namespace {

// Rows and vectors of the largest tile: sums, one row of b, and a number of a fit the registers.
#if RX_LANES == 16
constexpr int kTileRows = 8;
constexpr int kTileVectors = 3;
#elif RX_LANES == 8
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;
#else
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#endif

// Vectors of a tile of few rows: more, as the sums would else wait for each other.
constexpr int vectors_of(int rows) {
  if (RX_LANES == 16) return rows <= 2 ? 8 : rows <= 4 ? 6 : rows <= 6 ? 4 : 3;
  if (RX_LANES == 8) return rows <= 1 ? 8 : rows <= 2 ? 4 : 2;
  return rows <= 2 ? 4 : 2;
}

// The sums of a tile, written to y, the first column being the first of b.
template <int kRows, int kVectors>
inline void tile(const TileRow& t, const float* a, const float* b, float* y, std::int64_t y_row,
                 bool add) {
  Floats sums[kRows][kVectors] = {};
  const float* columns[kVectors];
  for (int v = 0; v < kVectors; ++v)
    columns[v] = b + v * kLanes / kPanel * t.b_panel + v * kLanes % kPanel;
  const std::int64_t step = t.a_step;
  for (std::int64_t k = 0; k < t.k; ++k) {
    Floats row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) row[v] = load(columns[v] + k * kPanel);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Floats x = splat(a[r]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += x * row[v];
    }
    a += step;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = y + r * y_row + v * kLanes;
      store(to, add ? load(to) + sums[r][v] : sums[r][v]);
    }
  }
}

// One vector that reaches beyond the last column of y.
template <int kRows>
inline void last_tile(const TileRow& t, const float* a, const float* b, float* y,
                      std::int64_t columns) {
  float sums[kRows * kLanes];
  tile<kRows, 1>(t, a, b, sums, kLanes, false);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const Floats sum = load(sums + r * kLanes);
    float* const to = y + r * t.y_row;
    store_some(to, t.add ? load_some(to, columns) + sum : sum, columns);
  }
}

template <int kRows, int kVectors>
inline std::int64_t tiles(const TileRow& t, const float* a, float* y, std::int64_t from,
                          std::int64_t keep) {
  constexpr std::int64_t kWide = kVectors * kLanes;
  // what is left for narrower tiles
  while (t.columns - from >= kWide + keep || t.columns - from == kWide) {
    tile<kRows, kVectors>(t, a, t.b + from / kPanel * t.b_panel + from % kPanel, y + from, t.y_row,
                          t.add);
    from += kWide;
  }
  return from;
}

template <int kRows>
void rows_of_tiles(const TileRow& t, const float* a, float* y) {
  constexpr int kMost = vectors_of(kRows);
  std::int64_t from = 0;
  // 4 vectors left are two pairs rather than 3 and 1
  from = tiles<kRows, kMost>(t, a, y, from, kMost == 3 ? 2 * kLanes : 0);
  if constexpr (kMost > 4) from = tiles<kRows, 4>(t, a, y, from, 0);
  if constexpr (kMost > 2) from = tiles<kRows, 2>(t, a, y, from, 0);
  from = tiles<kRows, 1>(t, a, y, from, 0);
  if (from < t.columns)
    last_tile<kRows>(t, a, t.b + from / kPanel * t.b_panel + from % kPanel, y + from,
                     t.columns - from);
}

template <int kRows>
void few_rows(const TileRow& t, std::int64_t rows, const float* a, float* y) {
  if (rows == kRows) return rows_of_tiles<kRows>(t, a, y);
  if constexpr (kRows > 1) few_rows<kRows - 1>(t, rows, a, y);
}

// Tiles one beside another: the numbers of b that a tile reads are in the cache for the rows below.
void tile_row(const TileRow& t) {
  for (std::int64_t row = 0; row < t.rows; row += kTileRows)
    few_rows<kTileRows>(t, least(t.rows - row, kTileRows), t.a + row, t.y + row * t.y_row);
}

// Strips: 4 by 4 numbers are turned at once.
inline void turn(const float* a, std::int64_t a_row, float* to, std::int64_t step) {
#if defined(__SSE2__)
  __m128 r0 = _mm_loadu_ps(a);
  __m128 r1 = _mm_loadu_ps(a + a_row);
  __m128 r2 = _mm_loadu_ps(a + 2 * a_row);
  __m128 r3 = _mm_loadu_ps(a + 3 * a_row);
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  _mm_storeu_ps(to, r0);
  _mm_storeu_ps(to + step, r1);
  _mm_storeu_ps(to + 2 * step, r2);
  _mm_storeu_ps(to + 3 * step, r3);
#else
  for (int r = 0; r < 4; ++r)
    for (int k = 0; k < 4; ++k) to[k * step + r] = a[r * a_row + k];
#endif
}

void pack_strip(const float* a, std::int64_t a_row, std::int64_t rows, std::int64_t k, float* to,
                std::int64_t step) {
  const std::int64_t whole_rows = rows / 4 * 4;
  const std::int64_t whole_k = k / 4 * 4;
  for (std::int64_t at = 0; at < whole_k; at += 4)
    for (std::int64_t r = 0; r < whole_rows; r += 4)
      turn(a + r * a_row + at, a_row, to + at * step + r, step);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t at = r < whole_rows ? whole_k : 0; at < k; ++at)
      to[at * step + r] = a[r * a_row + at];
}

}  // namespace
}  // namespace rx::cpu
