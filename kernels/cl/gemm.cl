// gemm: Y[b] = act(op(A[b]) * op(B[b]) + bias + residual[b]), op the identity or the transpose.
//
// A group makes one MWG x NWG tile of one Y[b], a work-item TM x TN of it. Slabs of KWG go through
// local memory; the next one is on its way into registers while the present one is summed. SPLIT
// groups share the sum of a tile: each leaves its part in `work`, and gemm_sum adds the parts in
// their order, so that the result is the same each time.
//
//      k ->   n ->
//    m +-+  k +-----+     As[k][m]  rows of MWG (+ 4 where A is turned on its way: 32 banks)
//    | |A|  | |  B  |     Bs[k][n]  rows of NWG (+ 4 likewise)
//    v +-+  v +-----+
//
// Buffers  row-major, contiguous, offset 0: A (batch,M,K), or (batch,K,M) if TA; B (batch,K,N), or
//          (batch,N,K) if TB; bias (N); residual, Y (BATCH,M,N), all of type real; work
//          (SPLIT,BATCH,M,N) float, read and written only if SPLIT > 1. strideA, strideB: elements
//          from one matrix to the next; 0 shares one. What BIAS, RESIDUAL, SPLIT leave unused may
//          be any buffer.
// Launch   gemm: global (ceil(N/NWG)*THREADS, ceil(M/MWG), BATCH*SPLIT), local (THREADS,1,1),
//          THREADS = (MWG/TM)*(NWG/TN); if SPLIT > 1 then gemm_sum: global
//          (ceil(N/(64*VEC))*64, M, BATCH), local (64,1,1).
// Limits   M, N, K, BATCH >= 1 and < 2^31 - 128, any sizes. VEC 4 only where N and the row lengths
//          of A and B are multiples of 4; EDGE 0 only where K is a multiple of 32.
// Accuracy |sum - exact| <= g * (|A||B| + |bias| + |residual|), g = n*u/(1 - n*u), u = 2^-24,
//          n = K + SPLIT + 3; then the activation (epilogue.clh), then the rounding of real.
// Source   K. Matsumoto, N. Nakasato & S. Sedukhin, Implementing a code generator for fast matrix
//          multiplication in OpenCL on the GPU, IEEE MCSoC 2012 (tiles as parameters); N. J.
//          Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.5 (bound).
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#include "epilogue.clh"

#ifndef REAL_BITS
#define REAL_BITS 32  // 32 | 16    bits of the elements of A, B, bias, residual, Y; sums are float
#endif
#ifndef TA
#define TA 0  // 0 | 1      A is stored transposed
#endif
#ifndef TB
#define TB 0  // 0 | 1      B is stored transposed
#endif
#ifndef VEC
#define VEC 1  // 1 | 4      elements a load or store; 4: see Limits
#endif
#ifndef EDGE
#define EDGE 1  // 1 | 0      0: K is a multiple of 32, and no slab has an edge
#endif
#ifndef MWG
#define MWG 64  // 16 | 32 | 64 | 128   rows of Y a group
#endif
#ifndef NWG
#define NWG 64  // 16 | 32 | 64 | 128   columns of Y a group
#endif
#ifndef KWG
#define KWG 16  // 8 | 16 | 32   k a slab
#endif
#ifndef TM
#define TM 4  // 1 | 2 | 4 | 8    rows a work-item
#endif
#ifndef TN
#define TN 4  // 1 | 2 | 4 | 8    columns a work-item
#endif
#ifndef SLABS
#define SLABS 1  // 1 | 2      slabs in local memory; 2 saves one of two barriers
#endif
#ifndef SPLIT
#define SPLIT 1  // 1..64      groups that share the sum of one tile
#endif

// before all else: what a helper gets as constants must be constants when its loops are unrolled
#define INLINE static inline __attribute__((always_inline))
#define TX (NWG / TN)
#define TY (MWG / TM)
#define THREADS (TX * TY)
#define QUADS_A (MWG * KWG / 4 / THREADS)  // 4 elements in a row: what a work-item moves at once
#define QUADS_B (NWG * KWG / 4 / THREADS)
#define ALONG_A (!TA)  // rows of the stored matrix run along k
#define ALONG_B (TB)
#define ROW_A (MWG + 4 * ALONG_A)
#define ROW_B (NWG + 4 * ALONG_B)
#define AT_ONCE(t) ((t) < 4 ? (t) : 4)  // neighbouring rows or columns of a work-item

#if MWG % 16 || NWG % 16 || MWG % TM || NWG % TN || KWG % 8
#error "MWG and NWG must be multiples of 16, TM and TN; KWG of 8"
#endif
#if MWG * KWG % (4 * THREADS) || NWG * KWG % (4 * THREADS)
#error "a slab must be a multiple of 4 elements a work-item"
#endif
#if SPLIT < 1 || SLABS < 1 || SLABS > 2 || (VEC != 1 && VEC != 4)
#error "SPLIT must be positive, SLABS 1 or 2, VEC 1 or 4"
#endif

#if REAL_BITS == 16
typedef half real;
typedef ushort stored;  // halves stay as they are until they are needed as floats
typedef ushort4 quad;
#define LOAD(p, i) vload_half(i, p)
#define SAVE(x, p, i) vstore_half_rte(x, i, p)
#define LOAD4(p, i) vload_half4(0, (p) + (i))
#define SAVE4(x, p, i) vstore_half4_rte(x, 0, (p) + (i))
INLINE float4 floats(quad q) { return vload_half4(0, (const __private half*)&q); }
#else
typedef float real;
typedef float stored;
typedef float4 quad;
#define LOAD(p, i) (p)[i]
#define SAVE(x, p, i) (p)[i] = (x)
#define LOAD4(p, i) *(const __global float4*)((p) + (i))
#define SAVE4(x, p, i) *(__global float4*)((p) + (i)) = (x)
INLINE float4 floats(quad q) { return q; }
#endif

// Which line (row of op(A), column of op(B)) and which k quad number e of a slab begins at.
// Rows along k: 32 work-items take 16 lines by 8 k, so that they store to 32 banks.
INLINE int line_of(int e, int along, int lines) {
  return along ? (e >> 1) % 16 + e / (4 * KWG) * 16 : e % (lines / 4) * 4;
}
INLINE int k_of(int e, int along, int lines) {
  return along ? (e % 2 + (e >> 5) % (KWG / 8) * 2) * 4 : e / (lines / 4);
}

// Where a quad begins in a stored matrix of `count` lines. Lines beyond the last repeat it: they
// are summed and never stored, which costs nothing in the loop.
INLINE const __global stored* start(const __global real* x, int along, int line, int k,
                                           int count, int K) {
  const __global stored* p = (const __global stored*)x;
  if (along) return p + (size_t)min(line, count - 1) * K + k;
  return p + (size_t)k * count + min(line, count - VEC);
}

// A quad; what lies beyond the last k is 0. left: k that are left from the quad's first one on;
// last: elements of its row from there to the last line, less one.
INLINE quad fetch(const __global stored* p, int along, int left, int last) {
#if VEC == 4
  if (EDGE && left <= 0) return (quad)(0);
  return *(const __global quad*)p;
#else
  if (along) {
    return (quad)(!EDGE || left > 0 ? p[0] : (stored)0, !EDGE || left > 1 ? p[1] : (stored)0,
                  !EDGE || left > 2 ? p[2] : (stored)0, !EDGE || left > 3 ? p[3] : (stored)0);
  }
  if (EDGE && left <= 0) return (quad)(0);
  return (quad)(p[0], p[clamp(last, 0, 1)], p[clamp(last, 0, 2)], p[clamp(last, 0, 3)]);
#endif
}

INLINE void put(quad q, __local float* slab, int along, int line, int k, int row) {
  const float4 x = floats(q);
  __local float* to = slab + k * row + line;
  if (along) {
    to[0] = x.x;
    to[row] = x.y;
    to[2 * row] = x.z;
    to[3 * row] = x.w;
  } else {
    *(__local float4*)to = x;
  }
}

// A work-item's rows or columns: pieces of AT_ONCE, `others` work-items apart.
INLINE int mine(int i, int t, int id, int others) {
  return i / AT_ONCE(t) * AT_ONCE(t) * others + id * AT_ONCE(t) + i % AT_ONCE(t);
}
// Two functions of one text: with sizes as arguments some compilers keep the loop, and the array in
// registers that are reached by number.
#define TAKE(name, t, others)                                         \
  INLINE void name(float* to, const __local float* from) {            \
    _Pragma("unroll") for (int i = 0; i < t; i += AT_ONCE(t)) {       \
      const __local float* piece = from + i * others;                 \
      if (t >= 4) {                                                   \
        const float4 x = *(const __local float4*)piece;               \
        to[i] = x.x;                                                  \
        to[i + 1] = x.y;                                              \
        to[i + 2] = x.z;                                              \
        to[i + 3] = x.w;                                              \
      } else if (t == 2) {                                            \
        const float2 x = *(const __local float2*)piece;               \
        to[i] = x.x;                                                  \
        to[i + 1] = x.y;                                              \
      } else {                                                        \
        to[i] = *piece;                                               \
      }                                                               \
    }                                                                 \
  }
TAKE(take_a, TM, TY)
TAKE(take_b, TN, TX)

INLINE void outer(float sum[TM][TN], const float* x, const float* y) {
#pragma unroll
  for (int i = 0; i < TM; i++) {
#pragma unroll
    for (int j = 0; j < TN; j++) sum[i][j] = mad(x[i], y[j], sum[i][j]);
  }
}

// sum += A-slab * B-slab for the work-item whose first row and column `a` and `b` point at. What
// the next k needs is read while the present one is summed; a loop of just two k keeps compilers
// from reading all of them first, which takes twice the registers.
INLINE void multiply(float sum[TM][TN], const __local float* a, const __local float* b) {
  float x0[TM], y0[TN], x1[TM], y1[TN];
  take_a(x0, a);
  take_b(y0, b);
#pragma unroll 1
  for (int k = 2; k < KWG; k += 2) {
    take_a(x1, a + ROW_A);
    take_b(y1, b + ROW_B);
    outer(sum, x0, y0);
    a += 2 * ROW_A;
    b += 2 * ROW_B;
    take_a(x0, a);
    take_b(y0, b);
    outer(sum, x1, y1);
  }
  take_a(x1, a + ROW_A);
  take_b(y1, b + ROW_B);
  outer(sum, x0, y0);
  outer(sum, x1, y1);
}

#if VEC == 4
INLINE float4 epilogue4(float4 x, size_t at, int n, float lo, float hi,
                               const __global real* bias, const __global real* residual) {
  const float4 b = BIAS ? LOAD4(bias, n) : (float4)(0.0f);
  const float4 r = RESIDUAL ? LOAD4(residual, at) : (float4)(0.0f);
  return (float4)(epilogue(x.x, b.x, r.x, lo, hi), epilogue(x.y, b.y, r.y, lo, hi),
                  epilogue(x.z, b.z, r.z, lo, hi), epilogue(x.w, b.w, r.w, lo, hi));
}
#endif
#if VEC == 1 || (TN < 4 && SPLIT == 1)
INLINE float epilogue1(float x, size_t at, int n, float lo, float hi,
                              const __global real* bias, const __global real* residual) {
  return epilogue(x, BIAS ? LOAD(bias, n) : 0.0f, RESIDUAL ? LOAD(residual, at) : 0.0f, lo, hi);
}
#endif

// Stores a work-item's part of one row: of Y, or of `part` if SPLIT > 1.
INLINE void finish(const float* sum, int n0, int tx, int N, size_t row, float lo, float hi,
                          const __global real* bias, const __global real* residual,
                          __global real* Y, __global float* part) {
#if VEC == 4 && TN >= 4
#pragma unroll
  for (int j = 0; j < TN; j += 4) {
    const int n = n0 + mine(j, TN, tx, TX);
    if (n >= N) continue;
    const float4 x = (float4)(sum[j], sum[j + 1], sum[j + 2], sum[j + 3]);
#if SPLIT > 1
    *(__global float4*)(part + row + n) = x;
#else
    SAVE4(epilogue4(x, row + n, n, lo, hi, bias, residual), Y, row + n);
#endif
  }
#else
#pragma unroll
  for (int j = 0; j < TN; j++) {
    const int n = n0 + mine(j, TN, tx, TX);
    if (n >= N) continue;
#if SPLIT > 1
    part[row + n] = sum[j];
#else
    SAVE(epilogue1(sum[j], row + n, n, lo, hi, bias, residual), Y, row + n);
#endif
  }
#endif
}

#define FETCH(left)                                                                           \
  _Pragma("unroll") for (int q = 0; q < QUADS_A; q++) {                                       \
    const int e = id + q * THREADS;                                                           \
    next_a[q] = fetch(from_a[q], ALONG_A, (left) - k_of(e, ALONG_A, MWG),                     \
                      M - 1 - m0 - line_of(e, ALONG_A, MWG));                                 \
    from_a[q] += step_a;                                                                      \
  }                                                                                           \
  _Pragma("unroll") for (int q = 0; q < QUADS_B; q++) {                                       \
    const int e = id + q * THREADS;                                                           \
    next_b[q] = fetch(from_b[q], ALONG_B, (left) - k_of(e, ALONG_B, NWG),                     \
                      N - 1 - n0 - line_of(e, ALONG_B, NWG));                                 \
    from_b[q] += step_b;                                                                      \
  }
#define PUT(slab)                                                                             \
  _Pragma("unroll") for (int q = 0; q < QUADS_A; q++) {                                       \
    const int e = id + q * THREADS;                                                           \
    put(next_a[q], As + (slab) * KWG * ROW_A, ALONG_A, line_of(e, ALONG_A, MWG),              \
        k_of(e, ALONG_A, MWG), ROW_A);                                                        \
  }                                                                                           \
  _Pragma("unroll") for (int q = 0; q < QUADS_B; q++) {                                       \
    const int e = id + q * THREADS;                                                           \
    put(next_b[q], Bs + (slab) * KWG * ROW_B, ALONG_B, line_of(e, ALONG_B, NWG),              \
        k_of(e, ALONG_B, NWG), ROW_B);                                                        \
  }

__attribute__((reqd_work_group_size(THREADS, 1, 1))) __kernel void gemm(
    const int M, const int N, const int K, const int BATCH, const long strideA, const long strideB,
    const float lo, const float hi, const __global real* restrict A,
    const __global real* restrict B, const __global real* restrict bias,
    const __global real* restrict residual, __global real* restrict Y,
    __global float* restrict work) {
  __local float __attribute__((aligned(16))) As[SLABS * KWG * ROW_A];
  __local float __attribute__((aligned(16))) Bs[SLABS * KWG * ROW_B];
  const int id = get_local_id(0), tx = id % TX, ty = id / TX;
  const int n0 = get_group_id(0) * NWG, m0 = get_group_id(1) * MWG;
  const int batch = get_group_id(2) / SPLIT, slice = get_group_id(2) % SPLIT;
  // slices are whole slabs, so that only the last one has an edge
  const int share = ((K - 1) / (KWG * SPLIT) + 1) * KWG;
  const int k0 = min((long)slice * share, (long)K), k1 = min((long)k0 + share, (long)K);
  // an empty slice sums nothing, but fetches a slab: one that there is
  const int first = EDGE ? k0 : min(k0, K - KWG);

  float sum[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; i++) {
#pragma unroll
    for (int j = 0; j < TN; j++) sum[i][j] = 0.0f;
  }
  const __global stored* from_a[QUADS_A];
  const __global stored* from_b[QUADS_B];
  quad next_a[QUADS_A], next_b[QUADS_B];
#pragma unroll
  for (int q = 0; q < QUADS_A; q++) {
    const int e = id + q * THREADS;
    from_a[q] = start(A + batch * strideA, ALONG_A, m0 + line_of(e, ALONG_A, MWG),
                      first + k_of(e, ALONG_A, MWG), M, K);
  }
#pragma unroll
  for (int q = 0; q < QUADS_B; q++) {
    const int e = id + q * THREADS;
    from_b[q] = start(B + batch * strideB, ALONG_B, n0 + line_of(e, ALONG_B, NWG),
                      first + k_of(e, ALONG_B, NWG), N, K);
  }
  const size_t step_a = ALONG_A ? KWG : (size_t)KWG * M;
  const size_t step_b = ALONG_B ? KWG : (size_t)KWG * N;

  FETCH(k1 - k0);
  PUT(0);
  int slab = 0;
  for (int left = k1 - k0; left > 0; left -= KWG) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (left > KWG) {
      FETCH(left - KWG);
    }
    multiply(sum, As + slab * KWG * ROW_A + ty * AT_ONCE(TM),
             Bs + slab * KWG * ROW_B + tx * AT_ONCE(TN));
    if (left > KWG) {
#if SLABS == 2
      slab ^= 1;
#else
      barrier(CLK_LOCAL_MEM_FENCE);
#endif
      PUT(slab);
    }
  }

  __global float* part = work + (size_t)slice * BATCH * M * N;
#pragma unroll
  for (int i = 0; i < TM; i++) {
    const int m = m0 + mine(i, TM, ty, TY);
    if (m < M) {
      finish(sum[i], n0, tx, N, ((size_t)batch * M + m) * N, lo, hi, bias, residual, Y, part);
    }
  }
}

// Y = act(work[0] + work[1] + ... + bias + residual): a work-item makes VEC elements of a row.
__attribute__((reqd_work_group_size(64, 1, 1))) __kernel void gemm_sum(
    const int M, const int N, const int BATCH, const float lo, const float hi,
    const __global float* restrict work, const __global real* restrict bias,
    const __global real* restrict residual, __global real* restrict Y) {
  const int n = get_global_id(0) * VEC;
  if (n >= N) return;
  const size_t at = ((size_t)get_group_id(2) * M + get_group_id(1)) * N + n;
  const __global float* part = work + at;
  const size_t step = (size_t)BATCH * M * N;
#if VEC == 4
  float4 x = *(const __global float4*)part;
  for (int s = 1; s < SPLIT; s++) {
    part += step;
    x += *(const __global float4*)part;
  }
  SAVE4(epilogue4(x, at, n, lo, hi, bias, residual), Y, at);
#else
  float x = *part;
  for (int s = 1; s < SPLIT; s++) {
    part += step;
    x += *part;
  }
  SAVE(epilogue1(x, at, n, lo, hi, bias, residual), Y, at);
#endif
}
