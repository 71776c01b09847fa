// bsr: Y = act(W * X + bias + residual) with a sparse W (ROWS, K) in blocks of BH x BW.
//
// TRANSPOSED 0: X (K,COLUMNS), Y (ROWS,COLUMNS), as a convolution has it. A group makes a row of
//   blocks times WG * TC columns: a block is the same for all work-items, so that its weights come by
//   scalar loads and every value of X read serves BH rows.
// TRANSPOSED 1: X (COLUMNS,K), Y (COLUMNS,ROWS), as MatMul has it. LANES work-items share a row of
//   blocks and a column, each takes every LANES-th block, and a tree adds their sums: the order is
//   fixed.
//
// Only stored blocks count: a NaN of X that no block of a row meets does not reach its result.
//
// Buffers  row-major, contiguous: X, Y above; starts int (ceil(ROWS / BH) + 1), indices int (blocks):
//          the block's first column of W is index * BW; entries real (blocks, BH, BW), whole also
//          where they stick out of W (what sticks out is not used); bias (ROWS)  residual as Y
// Launch   0: global (WG * ceil(COLUMNS / (WG * TC)), ceil(ROWS / BH), 1), local (WG, 1, 1)
//          1: global (WG * ceil(COLUMNS / (WG / LANES)), ceil(ROWS / BH), 1), local (WG, 1, 1)
// Limits   fewer than 2^31 blocks; WIDE 4: TRANSPOSED 0: COLUMNS is a multiple of 4; 1: K is one
// Accuracy |Y - exact| <= 1.14 * g * (|W| |X| + |bias| + |residual|) + what the epilogue states,
//          g = n u / (1 - n u), n = BW * most blocks of a row + 2, u = 2^-24; half rounds each
//          stored Y once more
// Source   E.-J. Im, K. Yelick & R. Vuduc, Sparsity: Optimization Framework for Sparse Matrix
//          Kernels, IJHPCA 18(1), 2004 (register blocks)
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#include "real.clh"
#include "epilogue.clh"

#ifndef TRANSPOSED
#define TRANSPOSED 0  // 0 | 1   how X and Y lie
#endif
#ifndef WIDE
#define WIDE 1  // 1 | 4   elements of X an access
#endif
#ifndef BH
#define BH 4  // 1..32   rows of a block
#endif
#ifndef BW
#define BW 4  // 1..32   columns of a block
#endif
#ifndef WG
#define WG 64  // 32..256   work-items a group, power of two
#endif
#ifndef TC
#define TC 1  // 1 | 2 | 4   columns a work-item (TRANSPOSED 0)
#endif
#ifndef LANES
#define LANES 1  // 1..64   work-items a row of blocks, power of two (TRANSPOSED 1)
#endif
#if WG % LANES != 0 || (LANES & (LANES - 1)) != 0
#error "LANES must be a power of two and divide WG"
#endif
#if WIDE == 4 && (TRANSPOSED ? BW % 4 != 0 : TC != 4)
#error "WIDE 4 needs TC 4, or TRANSPOSED 1 and BW a multiple of 4"
#endif
#define STEP (BW % 4 == 0 ? 4 : BW)  // columns of a block at a time: so many weights fit registers

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void bsr(
    const int ROWS, const int K, const int COLUMNS, const float lo, const float hi,
    const __global real* restrict X, const __global int* restrict starts,
    const __global int* restrict indices, const __global real* restrict entries,
    const __global real* restrict bias, const __global real* restrict residual,
    __global real* restrict Y) {
  const int band = get_group_id(1), row0 = band * BH;
  const int first = starts[band], last = starts[band + 1];
#if !TRANSPOSED
  float sums[BH][TC];
#pragma unroll
  for (int i = 0; i < BH * TC; ++i) sums[i / TC][i % TC] = 0.0f;
  // Runs of WIDE columns, WG of them side by side; beyond COLUMNS they read its last run.
  int columns[TC / WIDE];
#pragma unroll
  for (int j = 0; j < TC / WIDE; ++j)
    columns[j] = ((int)get_group_id(0) * (TC / WIDE) + j) * (WG * WIDE) +
                 (int)get_local_id(0) * WIDE;
  for (int e = first; e < last; ++e) {
    const __global real* block = entries + (size_t)e * (BH * BW);
    const int k0 = indices[e] * BW;
#pragma unroll 1
    for (int step = 0; step < BW; step += STEP) {
#pragma unroll
      for (int i = 0; i < STEP; ++i) {
        if (k0 + step + i < K) {
          const __global real* from = X + (size_t)(k0 + step + i) * COLUMNS;
          float x[TC];
#pragma unroll
          for (int j = 0; j < TC; j += WIDE) {
            const int column = min(columns[j / WIDE], COLUMNS - WIDE);
#if WIDE == 4
            const float4 run = real_get4(from, column);
            x[0] = run.x;
            x[1] = run.y;
            x[2] = run.z;
            x[3] = run.w;
#else
            x[j] = real_get(from, column);
#endif
          }
#pragma unroll
          for (int r = 0; r < BH; ++r) {
            const float weight = real_get(block, r * BW + step + i);
#pragma unroll
            for (int j = 0; j < TC; ++j) sums[r][j] = mad(weight, x[j], sums[r][j]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < BH; ++r) {
    if (row0 + r < ROWS) {
      const float b = BIAS ? real_get(bias, row0 + r) : 0.0f;
#pragma unroll
      for (int j = 0; j < TC / WIDE; ++j) {
        if (columns[j] < COLUMNS) {
          const size_t at = (size_t)(row0 + r) * COLUMNS + columns[j];
#if WIDE == 4
          const float4 s = RESIDUAL ? real_get4(residual, at) : (float4)(0.0f);
          real_put4(
              (float4)(epilogue(sums[r][0], b, s.x, lo, hi), epilogue(sums[r][1], b, s.y, lo, hi),
                       epilogue(sums[r][2], b, s.z, lo, hi), epilogue(sums[r][3], b, s.w, lo, hi)),
              Y, at);
#else
          real_put(epilogue(sums[r][j], b, RESIDUAL ? real_get(residual, at) : 0.0f, lo, hi), Y, at);
#endif
        }
      }
    }
  }
#else
  const int tid = get_local_id(0), lane = tid % LANES;
  const int column = (int)get_group_id(0) * (WG / LANES) + tid / LANES;
  const __global real* from = X + (size_t)min(column, COLUMNS - 1) * K;
  float sums[BH];
#pragma unroll
  for (int r = 0; r < BH; ++r) sums[r] = 0.0f;
  for (int e = first + lane; e < last; e += LANES) {
    const __global real* block = entries + (size_t)e * (BH * BW);
    const int k0 = indices[e] * BW;
#pragma unroll 1
    for (int step = 0; step < BW; step += STEP) {
      float x[STEP];
#if WIDE == 4
      if (k0 + step >= K) break;  // K is a multiple of 4
      const float4 run = real_get4(from, k0 + step);
      x[0] = run.x;
      x[1] = run.y;
      x[2] = run.z;
      x[3] = run.w;
#endif
#pragma unroll
      for (int i = 0; i < STEP; ++i) {
#if WIDE == 1
        if (k0 + step + i >= K) continue;
        x[i] = real_get(from, k0 + step + i);
#endif
#pragma unroll
        for (int r = 0; r < BH; ++r)
          sums[r] = mad(real_get(block, r * BW + step + i), x[i], sums[r]);
      }
    }
  }
#if LANES > 1
  __local float parts[BH * WG];
#pragma unroll
  for (int r = 0; r < BH; ++r) parts[r * WG + tid] = sums[r];
  for (int half_ = LANES / 2; half_ > 0; half_ /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane < half_) {
#pragma unroll
      for (int r = 0; r < BH; ++r) parts[r * WG + tid] += parts[r * WG + tid + half_];
    }
  }
#pragma unroll
  for (int r = 0; r < BH; ++r) sums[r] = parts[r * WG + tid];
#endif
  if (lane == 0 && column < COLUMNS) {
#pragma unroll
    for (int r = 0; r < BH; ++r) {
      if (row0 + r < ROWS) {
        const size_t at = (size_t)column * ROWS + row0 + r;
        real_put(epilogue(sums[r], BIAS ? real_get(bias, row0 + r) : 0.0f,
                          RESIDUAL ? real_get(residual, at) : 0.0f, lo, hi),
                 Y, at);
      }
    }
  }
#endif
}
