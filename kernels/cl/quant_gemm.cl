// quant_gemm: Y = act(A * W^T + bias + residual) for many rows, W of few bits.
//
// A group makes one MWG x NWG tile of Y, a work-item TM x TN of it. Slabs of KWG go through local
// memory as floats: weights are dequantized on their way from registers, where the next slab waits
// in its few bits while the present one is summed. SPLIT groups share the sum of a tile: each
// leaves its part in `work`, and quant_gemm_sum adds the parts in their order.
//
//      k ->   n ->
//    m +-+  k +-----+     As[k][m]  rows of MWG + 4, as A is turned on its way (32 banks)
//    | |A|  | | W^T |     Bs[k][n]  rows of NWG, turned by 8 or 16 columns (see TURN)
//    v +-+  v +-----+
//
// Buffers  row-major, contiguous, offset 0: A (M,K) real; B uint8 (N, ceil(K/block), block*BITS/8);
//          scales (N, ceil(K/block)) half or float; zeros uint8 (N, ceil(ceil(K/block)*BITS/8)) if
//          ZEROS; bias (N), residual (M,N), Y (M,N) real; work (SPLIT,M,N) float if SPLIT > 1. What
//          an option leaves unused may be any buffer. What fills up the last block of a row is
//          read, and multiplied by 0.
// Launch   quant_gemm: global (ceil(N/NWG)*THREADS, ceil(M/MWG), SPLIT), local (THREADS,1,1),
//          THREADS = (MWG/TM)*(NWG/TN); if SPLIT > 1 then quant_gemm_sum: global
//          (ceil(N/64)*64, M, 1), local (64,1,1).
// Limits   M, N, K >= 1 and < 2^31 - 128; block % 8 == 0; PER_BLOCK is 0 or block / 8; VEC 4 only
//          where K and N are multiples of 4. A row of W has less than 4 GiB. Weights are finite.
// Accuracy |sum - exact| <= g * (|A||W| + |bias| + |residual|), g = n*u/(1 - n*u), u = 2^-24,
//          n = K + SPLIT + 4 (one rounding is that of a weight: its integer times its scale); then
//          the activation (epilogue.clh), then the rounding of real
// Source   K. Matsumoto, N. Nakasato & S. Sedukhin, Implementing a code generator for fast matrix
//          multiplication in OpenCL on the GPU, IEEE MCSoC 2012 (tiles as parameters); N. J.
//          Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.5 (bound)
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#ifndef BITS
#define BITS 4  // 2 | 4 | 8   of a stored weight
#endif
#ifndef ZEROS
#define ZEROS 0  // 0 | 1   zero points are stored
#endif
#ifndef SCALE_BITS
#define SCALE_BITS 32  // 16 | 32   element type of the scales
#endif
#ifndef PER_BLOCK
#define PER_BLOCK 0  // 0 | power of two   eighths of a block; 0: any number, from the argument
#endif
#ifndef VEC
#define VEC 1  // 1 | 4   elements that loads of A and stores of Y move at once; 4: see Limits
#endif
#ifndef MWG
#define MWG 32  // 16..128   rows of Y a group
#endif
#ifndef NWG
#define NWG 64  // 16..128   columns of Y a group
#endif
#ifndef KWG
#define KWG 16  // 8 | 16 | 32   k a slab
#endif
#ifndef TM
#define TM 4  // 1 | 2 | 4 | 8   rows a work-item
#endif
#ifndef TN
#define TN 4  // 1 | 2 | 4 | 8   columns a work-item
#endif
#ifndef UNROLL
#define UNROLL 2  // 1 | 2 | 4 | 8   steps of k unrolled: fewer registers or less overhead
#endif
#ifndef SPLIT
#define SPLIT 1  // 1..32   groups that share the sum of one tile
#endif
#define PIECE 8

#include "dequant.clh"
#include "epilogue.clh"
#include "real.clh"
#include "tile.clh"

#define TX (NWG / TN)
#define TY (MWG / TM)
#define THREADS (TX * TY)
#define QUADS (MWG * KWG / 4 / THREADS)   // of A, that a work-item moves
#define PIECES (NWG * KWG / 8 / THREADS)  // of W
#define ROW_A (MWG + 4)
#define ROW_B NWG
#define OCTETS (KWG / 8)
// Columns of Bs are turned by this within 32 in each eighth of k: neighbouring work-items store to
// neighbouring eighths, and must not meet in a bank.
#define TURN(octet) (TX * TILE_RUN(TN) % 32 ? 0 : (octet) % OCTETS * (32 / OCTETS))

#if VEC == 4 && TN >= 4
#define RUN 4  // columns that a work-item stores at once
#else
#define RUN 1
#endif

#if BITS > 8
#error "BITS must be 2, 4 or 8"
#endif
#if MWG % 16 || NWG % 16 || MWG % TM || NWG % TN || KWG % 8
#error "MWG and NWG must be multiples of 16, TM and TN; KWG of 8"
#endif
#if MWG * KWG % (4 * THREADS) || NWG * KWG % (8 * THREADS)
#error "a slab must be whole quads of A and pieces of W a work-item"
#endif
#if VEC != 1 && VEC != 4
#error "VEC must be 1 or 4"
#endif

#if REAL_BITS == 16
typedef ushort4 quad;
typedef ushort stored;  // halves stay as they are until they are needed as floats
static inline float4 floats(quad q) {
  return vload_half4(0, (const half*)&q);
}
#else
typedef float4 quad;
typedef float stored;
static inline float4 floats(quad q) {
  return q;
}
#endif
#if SCALE_BITS == 16
typedef half scale_t;
#define LOAD_SCALE(p, i) vload_half(i, p)
#elif SCALE_BITS == 32
typedef float scale_t;
#define LOAD_SCALE(p, i) ((p)[i])
#else
#error "SCALE_BITS must be 16 or 32"
#endif

// Row and k of quad e of a slab of A: 32 work-items take 16 rows by 8 k, and store to 32 banks.
static inline int row_of(int e) {
  return e / 2 % 16 + e / (4 * KWG) * 16;
}
static inline int k_of(int e) {
  return (e % 2 + e / 32 % (KWG / 8) * 2) * 4;
}

// Four of A; 0 from the end of the row on. left: elements from the first one to there.
static inline quad fetch(const __global stored* p, const int left) {
#if VEC == 4
  if (left <= 0) return (quad)(0);
  return *(const __global quad*)p;
#else
  return (quad)(left > 0 ? p[0] : (stored)0, left > 1 ? p[1] : (stored)0,
                left > 2 ? p[2] : (stored)0, left > 3 ? p[3] : (stored)0);
#endif
}

// Where a row of W lies, and a piece of it as it waits.
struct source {
  const __global uchar* pieces;
  const __global scale_t* scales;
  const __global uchar* zeros;
};
struct loaded {
  piece_t piece;
  float scale;
  uint zero;
};

static inline struct loaded load(const struct source* from, const uint at, const uint per_block) {
  struct loaded found;
  const uint block = at / per_block;
  found.piece = *(const __global piece_t*)(from->pieces + at * PIECE_BYTES);
  found.scale = LOAD_SCALE(from->scales, block);
  found.zero = 0;
#if ZEROS
  found.zero = from->zeros[block * BITS / 8] >> (block * BITS % 8) & ((1 << BITS) - 1);
#endif
  return found;
}

static inline void put_quad(const quad q, __local float* to) {
  const float4 x = floats(q);
  to[0] = x.x;
  to[ROW_A] = x.y;
  to[2 * ROW_A] = x.z;
  to[3 * ROW_A] = x.w;
}

static inline void put_piece(const struct loaded one, __local float* to, const uint hide) {
  const float scale = one.scale * (1.0f / DEQUANT_FACTOR);
#pragma unroll
  for (int q = 0; q < 2; q++) {
    const float4 w = dequant4(one.piece, q, dequant_zero(one.zero), hide) * scale;
    to[q * 4 * ROW_B] = w.x;
    to[(q * 4 + 1) * ROW_B] = w.y;
    to[(q * 4 + 2) * ROW_B] = w.z;
    to[(q * 4 + 3) * ROW_B] = w.w;
  }
}

// Stores a run of columns: VEC of them, or one.
static inline void finish(const float4 x, const int count, const int n, const size_t at,
                          const float lo, const float hi, const __global real* bias,
                          const __global real* residual, __global real* Y, __global float* part) {
#if SPLIT > 1
  if (count == 4) {
    *(__global float4*)(part + at) = x;
  } else {
    part[at] = x.x;
  }
#else
  if (count == 4) {
    const float4 b = BIAS ? real_get4(bias, n) : (float4)(0.0f);
    const float4 r = RESIDUAL ? real_get4(residual, at) : (float4)(0.0f);
    real_put4((float4)(epilogue(x.x, b.x, r.x, lo, hi), epilogue(x.y, b.y, r.y, lo, hi),
                       epilogue(x.z, b.z, r.z, lo, hi), epilogue(x.w, b.w, r.w, lo, hi)),
              Y, at);
  } else {
    real_put(epilogue(x.x, BIAS ? real_get(bias, n) : 0.0f,
                      RESIDUAL ? real_get(residual, at) : 0.0f, lo, hi),
             Y, at);
  }
#endif
}

__attribute__((reqd_work_group_size(THREADS, 1, 1))) __kernel void quant_gemm(
    const int M, const int N, const int K, const int block, const float lo, const float hi,
    const __global real* restrict A, const __global uchar* restrict B,
    const __global scale_t* restrict scales, const __global uchar* restrict zeros,
    const __global real* restrict bias, const __global real* restrict residual,
    __global real* restrict Y, __global float* restrict work) {
  __local float __attribute__((aligned(16))) As[KWG * ROW_A];
  __local float __attribute__((aligned(16))) Bs[KWG * ROW_B];
  const int id = get_local_id(0), tx = id % TX, ty = id / TX;
  const int n0 = get_group_id(0) * NWG, m0 = get_group_id(1) * MWG;
  const uint hide = (uint)(N >> 31);  // 0; see dequant.clh
  const uint per_block = PER_BLOCK ? PER_BLOCK : (uint)block / 8;
  const uint blocks = (uint)(K - 1) / (per_block * 8) + 1, last = blocks * per_block - 1;
  // parts are whole slabs, so that only the last one has an edge
  const int slabs = (K - 1) / KWG + 1, share = (slabs - 1) / SPLIT + 1;
  const int first = min((int)get_group_id(2) * share, slabs);
  const int k0 = first * KWG, k1 = min(min(first + share, slabs) * KWG, K);

  // Rows and columns beyond the last repeat it: they are summed and never stored.
  const __global stored* from_a[QUADS];
  struct source from_b[PIECES];
  quad next_a[QUADS];
  struct loaded next_b[PIECES];
  float sums[TM][TN];
  TILE_ZERO(sums, TM, TN);
#pragma unroll
  for (int q = 0; q < QUADS; q++) {
    const int e = id + q * THREADS;
    from_a[q] = (const __global stored*)A + (size_t)min(m0 + row_of(e), M - 1) * K + (k0 + k_of(e));
  }
#pragma unroll
  for (int q = 0; q < PIECES; q++) {
    const size_t n = min(n0 + (id + q * THREADS) / OCTETS, N - 1);
    from_b[q].pieces = B + n * ((last + 1) * PIECE_BYTES);
    from_b[q].scales = scales + n * blocks;
    from_b[q].zeros = zeros + n * ((blocks * BITS + 7) / 8);
  }

// The slab that begins at k, into registers; these into local memory.
#define FETCH(k)                                                       \
  _Pragma("unroll") for (int q = 0; q < QUADS; q++) {                  \
    next_a[q] = fetch(from_a[q], k1 - (k)-k_of(id + q * THREADS));     \
    from_a[q] += KWG;                                                  \
  }                                                                    \
  _Pragma("unroll") for (int q = 0; q < PIECES; q++) {                 \
    const uint at = (uint)(k) / 8 + (uint)(id + q * THREADS) % OCTETS; \
    next_b[q] = load(&from_b[q], min(at, last), per_block);            \
  }
#define PUT                                                                           \
  _Pragma("unroll") for (int q = 0; q < QUADS; q++) {                                 \
    const int e = id + q * THREADS;                                                   \
    put_quad(next_a[q], As + k_of(e) * ROW_A + row_of(e));                            \
  }                                                                                   \
  _Pragma("unroll") for (int q = 0; q < PIECES; q++) {                                \
    const int e = id + q * THREADS;                                                   \
    put_piece(next_b[q], Bs + e % OCTETS * 8 * ROW_B + (e / OCTETS ^ TURN(e)), hide); \
  }

  if (k0 < k1) {
    FETCH(k0);
  }
  for (int k = k0; k < k1; k += KWG) {
    barrier(CLK_LOCAL_MEM_FENCE);
    PUT;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (k + KWG < k1) {
      FETCH(k + KWG);
    }
#pragma unroll 1
    for (int octet = 0; octet < OCTETS; octet++) {
      const __local float* from = As + octet * 8 * ROW_A;
      const __local float* to = Bs + octet * 8 * ROW_B;
      const int turned = tx ^ TURN(octet) / TILE_RUN(TN);
#pragma unroll UNROLL
      for (int i = 0; i < 8; i++) {
        float a[TM], b[TN];
        TILE_TAKE(a, from + i * ROW_A, TM, ty, TY);
        TILE_TAKE(b, to + i * ROW_B, TN, turned, TX);
        TILE_ADD(sums, a, b, TM, TN);
      }
    }
  }

  __global float* part = work + (size_t)get_group_id(2) * M * N;
#pragma unroll
  for (int i = 0; i < TM; i++) {
    const int m = m0 + TILE_PLACE(i, TM, ty, TY);
    if (m >= M) continue;
#pragma unroll
    for (int j = 0; j < TN; j += RUN) {
      const int n = n0 + TILE_PLACE(j, TN, tx, TX);
      if (n >= N) continue;
      const float4 x =
          (float4)(sums[i][j], sums[i][(j + 1) % TN], sums[i][(j + 2) % TN], sums[i][(j + 3) % TN]);
      finish(x, RUN, n, (size_t)m * N + n, lo, hi, bias, residual, Y, part);
    }
  }
}

// The second launch where SPLIT > 1: the parts in their order, and the epilogue.
__attribute__((reqd_work_group_size(64, 1, 1))) __kernel void quant_gemm_sum(
    const int M, const int N, const float lo, const float hi, const __global float* restrict work,
    const __global real* restrict bias, const __global real* restrict residual,
    __global real* restrict Y) {
  const int n = get_global_id(0);
  if (n >= N) return;
  const size_t at = (size_t)get_group_id(1) * N + n, step = (size_t)M * N;
  float sum = work[at];
  for (int s = 1; s < SPLIT; s++) sum += work[s * step + at];
  real_put(epilogue(sum, BIAS ? real_get(bias, n) : 0.0f, RESIDUAL ? real_get(residual, at) : 0.0f,
                    lo, hi),
           Y, at);
}
