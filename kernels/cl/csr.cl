// csr: Y = act(W * X + bias + residual) with a sparse W (ROWS, K) in compressed sparse rows.
//
// TRANSPOSED 0: X (K,COLUMNS), Y (ROWS,COLUMNS), as a convolution has it. A group makes one row of W
//   times WG * TC columns: its entries are the same for all work-items (scalar loads), the rows of X
//   are read side by side.
// TRANSPOSED 1: X (COLUMNS,K), Y (COLUMNS,ROWS), as MatMul has it; also a single column. LANES
//   work-items share a row of W, each takes every LANES-th entry for TC columns, and a tree adds
//   their sums: the order is fixed.
//
// Only stored entries count: a NaN of X that no entry of a row meets does not reach its result.
//
// Buffers  row-major, contiguous: X, Y above; starts int (ROWS + 1), indices int (entries), in any
//          order inside a row; entries real; bias (ROWS)  residual as Y
// Launch   0: global (WG * ceil(COLUMNS / (WG * TC)), ROWS, 1), local (WG, 1, 1)
//          1: global (WG * ceil(ROWS / (WG / LANES)), ceil(COLUMNS / TC), 1), local (WG, 1, 1)
// Limits   fewer than 2^31 entries; WIDE 4: COLUMNS is a multiple of 4 (TRANSPOSED 0 only)
// Accuracy |Y - exact| <= 1.14 * g * (|W| |X| + |bias| + |residual|) + what the epilogue states,
//          g = n u / (1 - n u), n = longest row + 2, u = 2^-24; half rounds each stored Y once more
// Source   N. Bell & M. Garland, Implementing Sparse Matrix-Vector Multiplication on
//          Throughput-Oriented Processors, SC 2009 (one row, many lanes)
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#include "real.clh"
#include "epilogue.clh"

#ifndef TRANSPOSED
#define TRANSPOSED 0  // 0 | 1   how X and Y lie
#endif
#ifndef WIDE
#define WIDE 1  // 1 | 4   columns an access
#endif
#ifndef WG
#define WG 64  // 32..256   work-items a group, power of two
#endif
#ifndef TC
#define TC 4  // 1 | 2 | 4 | 8   columns a work-item
#endif
#ifndef LANES
#define LANES 16  // 1..64   work-items a row, power of two (TRANSPOSED 1)
#endif
#if WG % LANES != 0 || (LANES & (LANES - 1)) != 0
#error "LANES must be a power of two and divide WG"
#endif
#if WIDE == 4 && (TRANSPOSED || TC % 4 != 0)
#error "WIDE 4 needs TRANSPOSED 0 and TC a multiple of 4"
#endif

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void csr(
    const int ROWS, const int K, const int COLUMNS, const float lo, const float hi,
    const __global real* restrict X, const __global int* restrict starts,
    const __global int* restrict indices, const __global real* restrict entries,
    const __global real* restrict bias, const __global real* restrict residual,
    __global real* restrict Y) {
  float sums[TC];
#pragma unroll
  for (int j = 0; j < TC; ++j) sums[j] = 0.0f;
#if !TRANSPOSED
  const int row = get_group_id(1);
  const int first = starts[row], last = starts[row + 1];
  // Runs of WIDE columns, WG of them side by side; beyond COLUMNS they read its last run.
  int columns[TC / WIDE];
#pragma unroll
  for (int j = 0; j < TC / WIDE; ++j)
    columns[j] = ((int)get_group_id(0) * (TC / WIDE) + j) * (WG * WIDE) +
                 (int)get_local_id(0) * WIDE;
  for (int e = first; e < last; ++e) {
    const float entry = real_get(entries, e);
    const __global real* from = X + (size_t)indices[e] * COLUMNS;
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
  if (row < ROWS) {
    const int last = starts[row + 1];
    for (int e = starts[row] + lane; e < last; e += LANES) {
      const float entry = real_get(entries, e);
      const int k = indices[e];
#pragma unroll
      for (int j = 0; j < TC; ++j) sums[j] = mad(entry, real_get(from[j], k), sums[j]);
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
