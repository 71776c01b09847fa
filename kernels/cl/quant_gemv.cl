// quant_gemv: Y = act(A * W^T + bias + residual) for few rows, W of few bits.
//
// Buffers  row-major, contiguous, offset 0: A (M,K) real; B uint8 (N, ceil(K/block), block*BITS/8),
//          of bits 16 and 32 (N,K) half or float; scales (N, ceil(K/block)) half or float; zeros
//          uint8 (N, ceil(ceil(K/block)*BITS/8)) if ZEROS; bias (N), residual (M,N), Y (M,N) real;
//          partial (SPLIT,M,N) float if SPLIT > 1. What an option leaves unused may be any buffer.
//          What fills up the last block of a row is read, and multiplied by 0.
// Launch   quant_gemv: local (WG,1,1), groups (ceil(N / (WG/LANES*R)), SPLIT, ceil(M/ROWS)).
//          With SPLIT > 1 then quant_gemv_sum: local (WG,1,1), groups (ceil(M*N/WG),1,1).
// Method   A group keeps a span of A in local memory. LANES work-items share R rows of W: at each
//          step each takes one piece (PIECE weights along K) of each, dequantizes it in registers,
//          and loads the next one meanwhile. Sums have a fixed order: results repeat bit by bit.
// Limits   M, N, K >= 1; K < 2^31; N * ceil(K/block) and M * N may pass 2^31. block % PIECE == 0;
//          bits 16 and 32: K % PIECE == 0. ALIGNED: K % 4 == 0. A row of W or A has less
//          than 4 GiB. 64 times the sums of a block over its scale must be finite.
// Accuracy |Y - exact| <= g * sum |a||w|, g = n*u / (1 - n*u), u = 2^-24,
//          n = K/LANES + PIECE + LANES + SPLIT + 4 (integers are exact), then what epilogue.clh
//          adds, then half an ulp of half where REAL_BITS is 16
// Source   N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#ifndef BITS
#define BITS 4  // 2 | 4 | 8 | 16 | 32   of a stored weight
#endif
#ifndef ZEROS
#define ZEROS 0  // 0 | 1   zero points are stored; with bits 2, 4 and 8
#endif
#ifndef REAL_BITS
#define REAL_BITS 32  // 16 | 32   element type of A, bias, residual and Y; sums are float in both
#endif
#ifndef SCALE_BITS
#define SCALE_BITS 32  // 16 | 32   element type of the scales
#endif
#ifndef PIECE
#define PIECE 8  // 1..32   weights of one load: within a block, and of 2, 4, 8 or 16 bytes
#endif
#ifndef PER_BLOCK
#define PER_BLOCK 0  // 0 | power of two   pieces of a block; 0: any number, from the argument
#endif
#ifndef ALIGNED
#define ALIGNED 0  // 0 | 1   rows of A begin at multiples of 4 elements
#endif
#ifndef WG
#define WG 64  // 64..256   work-items per group, power of two
#endif
#ifndef LANES
#define LANES 16  // 8..WG   work-items that share a row of W, power of two
#endif
#ifndef R
#define R 2  // 1..4   rows of W per work-item
#endif
#ifndef ROWS
#define ROWS 1  // 1..8   rows of A per group
#endif
#ifndef STEPS
#define STEPS 1  // 1..8   steps between two refills of local memory
#endif
#ifndef SPLIT
#define SPLIT 1  // 1..16   groups that share K
#endif
#if (WG & (WG - 1)) != 0 || (LANES & (LANES - 1)) != 0 || LANES > WG || LANES < 8
#error "WG and LANES must be powers of two, 8 <= LANES <= WG"
#endif
#if ALIGNED && PIECE < 4
#error "ALIGNED needs PIECE >= 4"
#endif

#include "dequant.clh"
#include "epilogue.clh"
#include "real.clh"

#if ALIGNED
typedef float4 fill_t;
#define FILL_LOAD(p, i) real_get4(p, i)
#else
typedef float fill_t;
#define FILL_LOAD(p, i) real_get(p, i)
#endif
#if SCALE_BITS == 16
typedef half scale_t;
#define LOAD_SCALE(p) vload_half(0, p)
#elif SCALE_BITS == 32
typedef float scale_t;
#define LOAD_SCALE(p) (*(p))
#else
#error "SCALE_BITS must be 16 or 32"
#endif

// Local memory: pieces of A lie PITCH floats apart, so that float4 reads of neighbours do not meet
// in a bank; then, in the same place, one float a lane for each sum.
#define WIDTH (PIECE < 4 ? PIECE : 4)
#define PITCH (PIECE > 4 ? PIECE + 4 : PIECE)
#define SPAN (STEPS * LANES)
#define TEAMS (WG / LANES)
#define SUMS (TEAMS * R * ROWS)
#define FOLD (SUMS * 4 <= WG && LANES >= 16 ? 4 : 1)
// Elements of A that a work-item loads at once, how many such loads fill the span, and how many of
// them are under way together.
#define FILL (ALIGNED ? 4 : 1)
#define FILLS ((ROWS * SPAN * PIECE / FILL + WG - 1) / WG)
#define BATCH (FILLS < 4 ? FILLS : 4)
#define SPAN_FLOATS (ROWS * SPAN * PITCH)
#define SUM_FLOATS (SUMS * (LANES + 4) + SUMS * FOLD)
#define LOCAL_FLOATS (SPAN_FLOATS > SUM_FLOATS ? SPAN_FLOATS : SUM_FLOATS)

// Puts pieces first to first + SPAN - 1 of ROWS rows of A into local memory; 0 beyond K.
static inline void fill(__local float* x, const __global real* a, const int row, const int M,
                        const int K, const int first, const int me) {
#if FILLS > 2 * BATCH
#pragma unroll 1  // else compilers hold all batches in registers at once
#else
#pragma unroll
#endif
  for (int i = 0; i < (FILLS + BATCH - 1) / BATCH * BATCH; i += BATCH) {
    fill_t v[BATCH];
    // loads of the whole batch, then stores, so that they wait for memory once
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      const int e = ((i + j) * WG + me) * FILL, m = e / (SPAN * PIECE);
      const int k = first * PIECE + e % (SPAN * PIECE);
      v[j] = FILL_LOAD(a + (size_t)min(row + m, M - 1) * K, min(k, K - FILL));
      if (k >= K) v[j] = 0.0f;
    }
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      const int e = ((i + j) * WG + me) * FILL;
      if (e < ROWS * SPAN * PIECE) *(__local fill_t*)(x + e / PIECE * PITCH + e % PIECE) = v[j];
    }
  }
}

// The offset in bytes is 32 bits wide: a 64-bit shift takes eight times as long as an addition.
#define AT(type, base, index) (*(const __global type*)((base) + (uint)(index) * (uint)sizeof(type)))

// Where a row of W lies, and what a step needs of it.
struct source {
  const __global uchar* pieces;
  const __global uchar* scales;
  const __global uchar* zeros;
};
struct loaded {
  piece_t piece;
  float scale;
  uint zero;
};

static inline struct loaded load(const struct source* from, const int at, const int per_block) {
  struct loaded found;
  found.piece = AT(piece_t, from->pieces, at);
  found.scale = 1.0f;
  found.zero = 0;
#if QUANTIZED
  const uint block = (uint)at / (uint)per_block;
  found.scale = LOAD_SCALE(&AT(scale_t, from->scales, block));
#if ZEROS
  found.zero = AT(uchar, from->zeros, block * BITS / 8) >> (block * BITS % 8) & ((1 << BITS) - 1);
#endif
#endif
  return found;
}

static inline float4 activations(const __local float* x) {
#if WIDTH == 4
  return *(const __local float4*)x;
#elif WIDTH == 2
  return (float4)(x[0], x[1], 0.0f, 0.0f);
#else
  return (float4)(x[0], 0.0f, 0.0f, 0.0f);
#endif
}

static inline float dot_more(const float4 w, const float4 x, float sum) {
  sum = mad(w.s0, x.s0, sum);
#if WIDTH > 1
  sum = mad(w.s1, x.s1, sum);
#endif
#if WIDTH > 2
  sum = mad(w.s2, x.s2, sum);
  sum = mad(w.s3, x.s3, sum);
#endif
  return sum;
}

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void quant_gemv(
    const int M, const int N, const int K, const int block, const float lo, const float hi,
    const __global real* restrict a, const __global uchar* restrict b,
    const __global scale_t* restrict scales, const __global uchar* restrict zeros,
    const __global real* restrict bias, const __global real* restrict residual,
    __global real* restrict y, __global float* restrict partial) {
  __local float __attribute__((aligned(16))) x[LOCAL_FLOATS];
  const int me = get_local_id(0), lane = me % LANES, team = me / LANES;
  const int column = ((int)get_group_id(0) * TEAMS + team) * R;
  const int row = (int)get_group_id(2) * ROWS;
  const uint hide = (uint)(N >> 31);

#if QUANTIZED
  const int per_block = PER_BLOCK ? PER_BLOCK : block / PIECE;
  const int blocks = (K - 1) / (per_block * PIECE) + 1;
  const int pieces = blocks * per_block;
#else
  const int per_block = 1, pieces = K / PIECE;
#endif
  const int steps = (pieces - 1) / LANES + 1;
  const int share = (steps - 1) / SPLIT + 1;
  const int begin = min((int)get_group_id(1) * share, steps);
  const int end = min(begin + share, steps);

  // Rows beyond N and pieces beyond the last are read where the last is, and not stored or times 0.
  const int last = pieces - 1;
  struct source from[R];
  struct loaded next[R];
  float sums[R][ROWS];
#pragma unroll
  for (int r = 0; r < R; r++) {
    const uint n = (uint)min(column + r, N - 1);
    from[r].pieces = b + (size_t)n * ((uint)pieces * (uint)sizeof(piece_t));
#if QUANTIZED
    from[r].scales = (const __global uchar*)scales + (size_t)n * ((uint)blocks * (SCALE_BITS / 8));
#endif
#if ZEROS
    from[r].zeros = zeros + (size_t)n * (((uint)blocks * BITS + 7) / 8);
#endif
    next[r] = load(&from[r], min(begin * LANES + lane, last), per_block);
#pragma unroll
    for (int m = 0; m < ROWS; m++) sums[r][m] = 0.0f;
  }

  for (int first = begin; first < end; first += STEPS) {
    barrier(CLK_LOCAL_MEM_FENCE);
    fill(x, a, row, M, K, first * LANES, me);
    barrier(CLK_LOCAL_MEM_FENCE);
    const int stop = min(first + STEPS, end);
    const __local float* here = x + lane * PITCH;
    for (int step = first; step < stop; step++) {
      struct loaded now[R];
      float t[R][ROWS];
      zero_t zero[R];
      const int at = min((step + 1) * LANES + lane, last);
#pragma unroll
      for (int r = 0; r < R; r++) {
        now[r] = next[r];
        next[r] = load(&from[r], at, per_block);
        zero[r] = dequant_zero(now[r].zero);
#pragma unroll
        for (int m = 0; m < ROWS; m++) t[r][m] = QUANTIZED ? 0.0f : sums[r][m];
      }
#pragma unroll
      for (int q = 0; q < PIECE / WIDTH; q++) {
        float4 w[R];
#pragma unroll
        for (int r = 0; r < R; r++) w[r] = dequant4(now[r].piece, q, zero[r], hide);
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
          const float4 v = activations(here + m * SPAN * PITCH + q * 4);
#pragma unroll
          for (int r = 0; r < R; r++) t[r][m] = dot_more(w[r], v, t[r][m]);
        }
      }
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int m = 0; m < ROWS; m++)
          sums[r][m] = QUANTIZED ? mad(t[r][m], now[r].scale, sums[r][m]) : t[r][m];
      here += LANES * PITCH;
    }
  }

  // Sums of the lanes: first FOLD parts of each, then these.
  barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < ROWS; m++) x[((team * R + r) * ROWS + m) * (LANES + 4) + lane] = sums[r][m];
  barrier(CLK_LOCAL_MEM_FENCE);
  __local float* folded = x + SUMS * (LANES + 4);
  for (int i = me; i < SUMS * FOLD; i += WG) {
    const __local float4* from =
        (const __local float4*)(x + i / FOLD * (LANES + 4) + i % FOLD * (LANES / FOLD));
    float4 sum = from[0];
#pragma unroll
    for (int j = 1; j < LANES / FOLD / 4; j++) sum += from[j];
    folded[i] = (sum.s0 + sum.s1) + (sum.s2 + sum.s3);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = me; i < SUMS; i += WG) {
    float sum = folded[i * FOLD];
#pragma unroll
    for (int j = 1; j < FOLD; j++) sum += folded[i * FOLD + j];
    sum *= 1.0f / DEQUANT_FACTOR;
    const int n = (int)get_group_id(0) * TEAMS * R + i / ROWS, m = row + i % ROWS;
    if (n < N && m < M) {
      const size_t place = (size_t)m * N + n;
#if SPLIT > 1
      partial[(size_t)get_group_id(1) * M * N + place] = sum;
#else
      real_put(epilogue(sum, BIAS ? real_get(bias, n) : 0.0f,
                        RESIDUAL ? real_get(residual, place) : 0.0f, lo, hi),
               y, place);
#endif
    }
  }
}

// The second launch where SPLIT > 1: the partial sums in their order, and the epilogue.
__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void quant_gemv_sum(
    const int M, const int N, const float lo, const float hi,
    const __global float* restrict partial, const __global real* restrict bias,
    const __global real* restrict residual, __global real* restrict y) {
  const size_t count = (size_t)M * N, i = get_global_id(0);
  if (i >= count) return;
  float sum = partial[i];
  for (int s = 1; s < SPLIT; s++) sum += partial[s * count + i];
  real_put(epilogue(sum, BIAS ? real_get(bias, i % N) : 0.0f,
                    RESIDUAL ? real_get(residual, i) : 0.0f, lo, hi),
           y, i);
}
