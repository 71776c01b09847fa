// lowrank: Y = act((X * P) * Q + bias + residual) in one launch; the middle stays in local memory.
//
//            R              N
//          +---+       +---------+        A work-group makes MWG rows of the middle (MWG, R), whole,
//        K | P |     R |    Q    |        and from them its share of the columns of Y. With NSPLIT > 1
//          +---+       +---------+        several groups share those rows, and each makes the middle
//      +---+ +-+       +---------+        again: worth it only where there are few rows.
//    M | X | |T|  ->   |    Y    | M
//      +---+ +-+       +---------+
//
// Buffers  row-major, contiguous: X (M,K)  P (K,R)  Q (R,N)  bias (N)  residual (M,N)  Y (M,N)
// Launch   global (WG, ceil(M / MWG), NSPLIT), local (WG, 1, 1)
// Limits   R <= RMAX; local memory: RMAX * (MWG + 4) floats and a slab of Q (LOCAL_BYTES of the
//          descriptor); the host checks, else two launches of gemm. WIDE 4: K, R and N are multiples of 4
// Accuracy |Y - exact| <= 1.14 * g * (|X||P||Q| + |bias| + |residual|) + what the epilogue states,
//          g = n u / (1 - n u), n = K + R + 3, u = 2^-24; half rounds each stored Y once more
// Source   N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.5
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#include "real.clh"
#include "epilogue.clh"
#include "tile.clh"

#ifndef WIDE
#define WIDE 1  // 1 | 4   elements a load: 4 where K, R and N are multiples of 4
#endif
#ifndef WG
#define WG 256  // 64..256   work-items a group
#endif
#ifndef MWG
#define MWG 64  // 8..128   rows of X a group
#endif
#ifndef TM
#define TM 4  // 1 | 2 | 4 | 8   rows a work-item
#endif
#ifndef RMAX
#define RMAX 64  // 16..256   columns of the middle that fit
#endif
#ifndef TN
#define TN 8  // 1 | 2 | 4 | 8   columns of Y a work-item
#endif
#ifndef KWG
#define KWG 16  // 8 | 16 | 32   depth of a slab of X and P
#endif
#ifndef QWG
#define QWG 8  // 4 | 8 | 16   depth of a slab of Q
#endif
#ifndef KS
#define KS 1  // 1 | 2 | 4 | 8   parts of a slab of X and P that other work-items take
#endif
#ifndef NSPLIT
#define NSPLIT 1  // 1..64   groups that share the same rows
#endif

#define TY (MWG / TM)    // work-items over rows
#define TX (WG / TY)     // work-items over columns of Y
#define TP (TX / KS)     // work-items over columns of the middle
#define TR (RMAX / TP)   // columns of the middle a work-item
#define NWG (TX * TN)    // columns of Y at a time
#define ROW (MWG + 4)    // of X's slab and of the middle in local memory; 4: other banks
#define DEPTH (KWG / KS)  // of a slab, for one work-item
#if MWG % TM != 0 || WG % TY != 0 || TX % KS != 0 || RMAX % TP != 0 || KWG % KS != 0
#error "a tile is not whole: MWG % TM, WG % (MWG / TM), TX % KS, RMAX % TP, KWG % KS must be 0"
#endif
#if TR != 1 && TR != 2 && TR % 4 != 0
#error "RMAX / TP must be 1, 2 or a multiple of 4"
#endif
#if RMAX % WIDE != 0 || TN % WIDE != 0 || KWG % WIDE != 0 || RMAX % QWG != 0
#error "WIDE must divide RMAX, TN and KWG, and QWG must divide RMAX"
#endif

// Loads of a slab, each of WIDE elements, and how many of them a work-item makes.
#define X_LOADS (MWG * KWG / WIDE)
#define P_LOADS (KWG * RMAX / WIDE)
#define Q_LOADS (QWG * NWG / WIDE)
#define PER_ITEM(loads) (((loads) + WG - 1) / WG)
#define MAX2(a, b) ((a) > (b) ? (a) : (b))
// The slabs of X and P lie where the middle comes to lie.
#define LOCAL MAX2(KWG * (ROW + RMAX), RMAX * ROW + QWG * NWG)

#if WIDE == 4
typedef float4 wide;
#define GET real_get4
#else
typedef float wide;
#define GET real_get
#endif
#define NOTHING ((wide)(0.0f))
// Whether load `l` of this work-item is one of `loads`: known when compiling where WG divides them.
#define MINE(l, loads) ((loads) % WG == 0 || (int)get_local_id(0) + (l) * WG < (loads))

// Row and column of load `l` of a matrix in local memory whose rows hold `width` elements.
#define ROW_OF(l, width) (((int)get_local_id(0) + (l) * WG) / ((width) / WIDE))
#define COLUMN_OF(l, width) (((int)get_local_id(0) + (l) * WG) % ((width) / WIDE) * WIDE)
// A load where row `k` of the slab is one of `rows`, else zeros; `all`: every row is.
#define FETCH(to, from, other, k, rows, all)                    \
  {                                                             \
    if (all) {                                                  \
      to = GET(from, 0);                                        \
    } else {                                                    \
      const wide got_ = GET((k) < (rows) ? (from) : (other), 0); \
      to = (k) < (rows) ? got_ : NOTHING;                       \
    }                                                           \
  }

// The next slabs of X and P. X's rows and P's columns beyond the matrix read others: what they give
// is not used. Rows of P beyond K are zeros, as are X's columns.
#define FETCH_XP(all)                                                                            \
  {                                                                                              \
    _Pragma("unroll") for (int l = 0; l < PER_ITEM(X_LOADS); ++l) if (MINE(l, X_LOADS))          \
        FETCH(held_x[l], x_at[l], X, next + COLUMN_OF(l, KWG), K, all)                           \
    _Pragma("unroll") for (int l = 0; l < PER_ITEM(P_LOADS); ++l) if (MINE(l, P_LOADS))          \
        FETCH(held_p[l], p_at[l], P, next + ROW_OF(l, RMAX), K, all)                             \
  }
#define FETCH_Q(r, all)                                                                          \
  {                                                                                              \
    _Pragma("unroll") for (int l = 0; l < PER_ITEM(Q_LOADS); ++l) if (MINE(l, Q_LOADS))          \
        FETCH(held[l], q_at[l], Q, (r) + ROW_OF(l, NWG), R, all)                                 \
  }
#define STORE_ROWS(to, held, loads)                                                              \
  {                                                                                              \
    _Pragma("unroll") for (int l = 0; l < PER_ITEM(loads); ++l) if (MINE(l, loads))              \
        *(__local wide*)((to) + ((int)get_local_id(0) + l * WG) * WIDE) = held[l];               \
  }

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void lowrank(
    const int M, const int K, const int R, const int N, const float lo, const float hi,
    const __global real* restrict X, const __global real* restrict P,
    const __global real* restrict Q, const __global real* restrict bias,
    const __global real* restrict residual, __global real* restrict Y) {
  __local float __attribute__((aligned(16))) local_[LOCAL];
  __local float* middle = local_;            // [r][m]
  __local float* slab = local_ + RMAX * ROW;  // of Q: [k][n]
  const int tid = get_local_id(0), tx = tid % TX, ty = tid / TX;
  const int m0 = get_group_id(1) * MWG;
  {  // middle = X * P
    __local float* xs = local_;              // [k][m]
    __local float* ps = local_ + KWG * ROW;  // [k][r]
    const int part = tx / TP * DEPTH, tp = tx % TP;
    wide held_x[PER_ITEM(X_LOADS)], held_p[PER_ITEM(P_LOADS)];
    const __global real *x_at[PER_ITEM(X_LOADS)], *p_at[PER_ITEM(P_LOADS)];
#pragma unroll
    for (int l = 0; l < PER_ITEM(X_LOADS); ++l)
      x_at[l] = X + (size_t)min(m0 + ROW_OF(l, KWG), M - 1) * K + COLUMN_OF(l, KWG);
#pragma unroll
    for (int l = 0; l < PER_ITEM(P_LOADS); ++l)
      p_at[l] = P + (size_t)ROW_OF(l, RMAX) * R + min(COLUMN_OF(l, RMAX), R - WIDE);
    float sums[TM][TR];
    TILE_ZERO(sums, TM, TR)
    for (int next = 0; next < K + KWG; next += KWG) {
      if (next + KWG <= K)
        FETCH_XP(true)
      else if (next < K)
        FETCH_XP(false)
      if (next > 0) {
#pragma unroll 4
        for (int k = 0; k < DEPTH; ++k) {
          float a[TM], b[TR];
          TILE_TAKE(a, xs + (part + k) * ROW, TM, ty, TY)
          TILE_TAKE(b, ps + (part + k) * RMAX, TR, tp, TP)
          TILE_ADD(sums, a, b, TM, TR)
        }
        barrier(CLK_LOCAL_MEM_FENCE);
      }
      if (next < K) {
#pragma unroll
        for (int l = 0; l < PER_ITEM(X_LOADS); ++l) {
          __local float* to = xs + COLUMN_OF(l, KWG) * ROW + ROW_OF(l, KWG);
          if (MINE(l, X_LOADS)) {
#if WIDE == 4
            to[0] = held_x[l].x;
            to[ROW] = held_x[l].y;
            to[2 * ROW] = held_x[l].z;
            to[3 * ROW] = held_x[l].w;
#else
            to[0] = held_x[l];
#endif
          }
          x_at[l] += KWG;
        }
        STORE_ROWS(ps, held_p, P_LOADS)
#pragma unroll
        for (int l = 0; l < PER_ITEM(P_LOADS); ++l) p_at[l] += (size_t)KWG * R;
        barrier(CLK_LOCAL_MEM_FENCE);
      }
    }
    // The parts add their sums one after the other: the order is fixed.
#pragma unroll
    for (int p = 0; p < KS; ++p) {
      if (KS == 1 || part == p * DEPTH) {
#pragma unroll
        for (int j = 0; j < TR; ++j) {
          const int r = TILE_PLACE(j, TR, tp, TP);
#pragma unroll
          for (int i = 0; i < TM; ++i) {
            const int at = r * ROW + TILE_PLACE(i, TM, ty, TY);
            // columns beyond R: 0, also where X holds infinities
            if (p == 0)
              middle[at] = r < R ? sums[i][j] : 0.0f;
            else
              middle[at] += r < R ? sums[i][j] : 0.0f;
          }
        }
      }
      if (p + 1 < KS) barrier(CLK_LOCAL_MEM_FENCE);
    }
  }
  // Y = middle * Q: one loop over slabs of all tiles, so that the next tile's first slab is on its
  // way while this one's results are stored.
  const int share = (((N + NSPLIT - 1) / NSPLIT) + NWG - 1) / NWG * NWG;
  const int last = min(N, ((int)get_group_id(2) + 1) * share);
  int n0 = get_group_id(2) * share, r0 = 0;
  wide held[PER_ITEM(Q_LOADS)];
  const __global real* q_at[PER_ITEM(Q_LOADS)];
  float sums[TM][TN];
  TILE_ZERO(sums, TM, TN)
#define START_TILE(n)                                            \
  {                                                              \
    _Pragma("unroll") for (int l = 0; l < PER_ITEM(Q_LOADS); ++l) \
        q_at[l] = Q + (size_t)ROW_OF(l, NWG) * N + min((n) + COLUMN_OF(l, NWG), N - WIDE); \
  }
  START_TILE(n0)
  if (n0 < last) FETCH_Q(0, false)
  while (n0 < last) {
    STORE_ROWS(slab, held, Q_LOADS)
    barrier(CLK_LOCAL_MEM_FENCE);
    const bool done = r0 + QWG >= R;
    const int r1 = done ? 0 : r0 + QWG, n1 = done ? n0 + NWG : n0;
    if (done) {
      START_TILE(n1)
    } else {
#pragma unroll
      for (int l = 0; l < PER_ITEM(Q_LOADS); ++l) q_at[l] += (size_t)QWG * N;
    }
    if (n1 < last) {
      if (r1 + QWG <= R)
        FETCH_Q(r1, true)
      else
        FETCH_Q(r1, false)
    }
#pragma unroll 4
    for (int k = 0; k < QWG; ++k) {
      float a[TM], b[TN];
      TILE_TAKE(a, middle + (r0 + k) * ROW, TM, ty, TY)
      TILE_TAKE(b, slab + k * NWG, TN, tx, TX)
      TILE_ADD(sums, a, b, TM, TN)
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (done) {
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        const int m = m0 + TILE_PLACE(i, TM, ty, TY);
        if (m < M) {
          const size_t row = (size_t)m * N;
#pragma unroll
          for (int j = 0; j < TN; j += WIDE) {
            const int n = n0 + TILE_PLACE(j, TN, tx, TX);
            if (n < N) {
#if WIDE == 4
              const float4 b = BIAS ? real_get4(bias, n) : (float4)(0.0f);
              const float4 s = RESIDUAL ? real_get4(residual, row + n) : (float4)(0.0f);
              real_put4((float4)(epilogue(sums[i][j], b.x, s.x, lo, hi),
                                 epilogue(sums[i][(j + 1) % TN], b.y, s.y, lo, hi),
                                 epilogue(sums[i][(j + 2) % TN], b.z, s.z, lo, hi),
                                 epilogue(sums[i][(j + 3) % TN], b.w, s.w, lo, hi)),
                        Y, row + n);
#else
              real_put(epilogue(sums[i][j], BIAS ? real_get(bias, n) : 0.0f,
                                RESIDUAL ? real_get(residual, row + n) : 0.0f, lo, hi),
                       Y, row + n);
#endif
            }
          }
        }
      }
      TILE_ZERO(sums, TM, TN)
    }
    n0 = n1;
    r0 = r1;
  }
}
