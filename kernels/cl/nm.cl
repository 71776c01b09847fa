// nm: Y = act(W * X + bias + residual), W (ROWS, K) with KEEP weights kept of each 4 along K.
//
// TRANSPOSED 1: X (COLUMNS,K), Y (COLUMNS,ROWS), as MatMul has it; also a single column. LANES
//   work-items share a row of W; each takes every LANES-th four, reads X side by side with its
//   neighbours and selects by the two bits; a tree adds their sums in a fixed order.
// TRANSPOSED 0: X (K,COLUMNS), Y (ROWS,COLUMNS), as a convolution has it. A group makes one row of W
//   times WG * TC columns; what it keeps is the same for all work-items.
//
// Only kept weights count: a NaN of X that meets none of a row does not reach its result.
//
// Buffers  row-major, contiguous: X, Y above; F = ceil(K / 4) fours; entries real (ROWS, F * KEEP);
//          places uint (ROWS, ceil(F * KEEP / 16)): the two bits of entry i of a row, its column in
//          its four, at bit i % 16 * 2 of word i / 16, a column beyond K only with an entry that is
//          not used; bias (ROWS)  residual as Y
// Launch   0: global (WG * ceil(COLUMNS / (WG * TC)), ROWS, 1), local (WG, 1, 1)
//          1: global (WG * ceil(ROWS / (WG / LANES)), ceil(COLUMNS / TC), 1), local (WG, 1, 1)
// Limits   WIDE 4: TRANSPOSED 0: COLUMNS is a multiple of 4; 1: K is one
// Accuracy |Y - exact| <= 1.14 * g * (|W| |X| + |bias| + |residual|) + what the epilogue states,
//          g = n u / (1 - n u), n = F * KEEP + 2, u = 2^-24; half rounds each stored Y once more
// Source   A. Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378, 2021 (the
//          2:4 form). This card has no unit for it: it pays where weights cross the memory bus once,
//          that is for few columns; with many, a dense product of the unpacked weight is as fast.
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#include "real.clh"
#include "epilogue.clh"

#ifndef TRANSPOSED
#define TRANSPOSED 1  // 0 | 1   how X and Y lie
#endif
#ifndef WIDE
#define WIDE 1  // 1 | 4   elements of X an access
#endif
#ifndef KEEP
#define KEEP 2  // 1 | 2   weights kept of 4
#endif
#ifndef WG
#define WG 64  // 32..256   work-items a group, power of two
#endif
#ifndef TC
#define TC 4  // 1 | 2 | 4 | 8   columns a work-item
#endif
#ifndef LANES
#define LANES 64  // 1..256   work-items a row, power of two (TRANSPOSED 1)
#endif
#if KEEP != 1 && KEEP != 2
#error "KEEP must be 1 or 2"
#endif
#if WG % LANES != 0 || (LANES & (LANES - 1)) != 0
#error "LANES must be a power of two and divide WG"
#endif
#if WIDE == 4 && !TRANSPOSED && TC % 4 != 0
#error "WIDE 4 needs TC a multiple of 4"
#endif

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void nm(
    const int ROWS, const int K, const int COLUMNS, const float lo, const float hi,
    const __global real* restrict X, const __global real* restrict entries,
    const __global uint* restrict places, const __global real* restrict bias,
    const __global real* restrict residual, __global real* restrict Y) {
  const int fours = (K + 3) / 4, kept = fours * KEEP, words = (kept + 15) / 16;
  float sums[TC];
#pragma unroll
  for (int j = 0; j < TC; ++j) sums[j] = 0.0f;
#if !TRANSPOSED
  const int row = get_group_id(1);
  const __global real* held = entries + (size_t)row * kept;
  const __global uint* bits = places + (size_t)row * words;
  // Runs of WIDE columns, WG of them side by side; beyond COLUMNS they read its last run.
  int columns[TC / WIDE];
#pragma unroll
  for (int j = 0; j < TC / WIDE; ++j)
    columns[j] = ((int)get_group_id(0) * (TC / WIDE) + j) * (WG * WIDE) +
                 (int)get_local_id(0) * WIDE;
  for (int word = 0; word < words; ++word) {
    uint rest = bits[word];
    const int last = min(kept, word * 16 + 16);
    for (int e = word * 16; e < last; ++e, rest >>= 2) {
      const int k = e / KEEP * 4 + (int)(rest & 3u);
      if (k >= K) continue;
      const float entry = real_get(held, e);
      const __global real* from = X + (size_t)k * COLUMNS;
#pragma unroll
      for (int j = 0; j < TC / WIDE; ++j) {
        const int column = min(columns[j], COLUMNS - WIDE);
#if WIDE == 4
        const float4 x = real_get4(from, column);
        sums[j * 4] = mad(entry, x.x, sums[j * 4]);
        sums[j * 4 + 1] = mad(entry, x.y, sums[j * 4 + 1]);
        sums[j * 4 + 2] = mad(entry, x.z, sums[j * 4 + 2]);
        sums[j * 4 + 3] = mad(entry, x.w, sums[j * 4 + 3]);
#else
        sums[j] = mad(entry, real_get(from, column), sums[j]);
#endif
      }
    }
  }
  const float b = BIAS ? real_get(bias, row) : 0.0f;
#pragma unroll
  for (int j = 0; j < TC / WIDE; ++j) {
    if (columns[j] < COLUMNS) {
      const size_t at = (size_t)row * COLUMNS + columns[j];
#if WIDE == 4
      const float4 s = RESIDUAL ? real_get4(residual, at) : (float4)(0.0f);
      real_put4((float4)(epilogue(sums[j * 4], b, s.x, lo, hi),
                         epilogue(sums[j * 4 + 1], b, s.y, lo, hi),
                         epilogue(sums[j * 4 + 2], b, s.z, lo, hi),
                         epilogue(sums[j * 4 + 3], b, s.w, lo, hi)),
                Y, at);
#else
      real_put(epilogue(sums[j], b, RESIDUAL ? real_get(residual, at) : 0.0f, lo, hi), Y, at);
#endif
    }
  }
#else
  __local float parts[TC * WG];
  const int tid = get_local_id(0), lane = tid % LANES;
  const int row = (int)get_group_id(0) * (WG / LANES) + tid / LANES;
  const int column0 = (int)get_group_id(1) * TC;
  const __global real* from[TC];  // columns beyond COLUMNS read its last
#pragma unroll
  for (int j = 0; j < TC; ++j) from[j] = X + (size_t)min(column0 + j, COLUMNS - 1) * K;
  const __global real* held = entries + (size_t)min(row, ROWS - 1) * kept;
  const __global uint* bits = places + (size_t)min(row, ROWS - 1) * words;
  for (int f = lane; f < fours; f += LANES) {
    const uint pair = bits[f * KEEP / 16] >> (f * KEEP % 16 * 2);
#if KEEP == 2
    const float2 weight = real_get2(held, f * 2);
#else
    const float weight = real_get(held, f);
#endif
#pragma unroll
    for (int j = 0; j < TC; ++j) {
#if WIDE == 4
      const float4 x = real_get4(from[j], f * 4);
#else
      const int k = f * 4;
      const float4 x = (float4)(real_get(from[j], k), real_get(from[j], min(k + 1, K - 1)),
                                real_get(from[j], min(k + 2, K - 1)),
                                real_get(from[j], min(k + 3, K - 1)));
#endif
#pragma unroll
      for (int i = 0; i < KEEP; ++i) {
        const uint place = pair >> (i * 2);
        const float low = place & 1u ? x.y : x.x, high = place & 1u ? x.w : x.z;
#if KEEP == 2
        const float w = i == 0 ? weight.x : weight.y;
#else
        const float w = weight;
#endif
        const float next = mad(w, place & 2u ? high : low, sums[j]);
#if WIDE == 4
        sums[j] = next;
#else
        sums[j] = f * 4 + (int)(place & 3u) < K ? next : sums[j];
#endif
      }
    }
  }
#pragma unroll
  for (int j = 0; j < TC; ++j) parts[j * WG + tid] = sums[j];
  for (int half_ = LANES / 2; half_ > 0; half_ /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane < half_) {
#pragma unroll
      for (int j = 0; j < TC; ++j) parts[j * WG + tid] += parts[j * WG + tid + half_];
    }
  }
  if (row < ROWS && lane == 0) {
    const float b = BIAS ? real_get(bias, row) : 0.0f;
#pragma unroll
    for (int j = 0; j < TC; ++j) {
      if (column0 + j < COLUMNS) {
        const size_t at = (size_t)(column0 + j) * ROWS + row;
        real_put(epilogue(parts[j * WG + tid], b, RESIDUAL ? real_get(residual, at) : 0.0f, lo, hi),
                 Y, at);
      }
    }
  }
#endif
}
