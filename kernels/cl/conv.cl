// conv: Y = act(conv2d(X, weight) + bias + residual) as a GEMM whose right side is read in place.
//
//                     N = BATCH * OH * OW          A work-group makes a tile (MWG, NWG) of one group
//                   +--------------------+         of channels; the columns of the right side are the
//   K = CIN / GROUP |  X, by a table of  |         windows of X, fetched element by element through a
//       * KH * KW   |  K offsets         |         table k -> (bytes from the window's start, dy, dx)
//                   +--------------------+         that the kernel conv_table makes once.
//   M = COUT  +---+ +--------------------+         SPLIT > 1: SPLIT groups share a tile along K, store
//     / GROUP | W | |         Y          |         sums, and conv_sum adds them in a fixed order.
//             +---+ +--------------------+
//
// Buffers  X (BATCH,CIN,H,W)  table int4 (K rounded up to 32)  bias (COUT)  residual as Y
//          Y (BATCH,COUT,OH,OW)  work float (SPLIT,BATCH,COUT,OH,OW), not read where SPLIT is 1
//          WEIGHT_BITS 32, 16: weight (COUT,K) float or half; scales and zeros are not read
//          WEIGHT_BITS 8, 4, 2: weight uchar (COUT, B * BLOCK * WEIGHT_BITS / 8), B = blocks of
//          BLOCK along K, the last filled up, the first integer in the lowest bits; scales (COUT,B)
//          real; zeros uchar (COUT, ceil(B * WEIGHT_BITS / 8)), read where ZEROS, else they are
//          2^(WEIGHT_BITS - 1). A weight is (integer - zero) * scale.
//          1D: H = KH = OH = SH = DH = 1, PT = 0
// Launch   conv: global (WG * ceil(N / NWG), GROUP * ceil(M / MWG), SPLIT), local (WG, 1, 1)
//          conv_sum: global (ceil(BATCH * COUT * OH * OW / 256) * 256, 1, 1), local (256, 1, 1)
//          conv_table: global (ceil(K / 32) * 32, 1, 1), local (32, 1, 1)
// Limits   N < 2^31; CIN / GROUP * H * W * REAL_BITS / 8 < 2^31 bytes; BLOCK a multiple of 8;
//          POINTWISE: KH = KW = SH = SW = 1, no pads; WIDE 4: OH * OW is a multiple of 4;
//          WIDE_K 4: K is one (plain weights). Rows of X and Y may lie beyond 2^31 bytes.
// Accuracy |Y - exact| <= 1.14 * g * (|W| * |X| + |bias| + |residual|) + what the epilogue states,
//          g = n u / (1 - n u), n = K + SPLIT + 4, u = 2^-24; half rounds each stored Y once more
// Source   K. Chellapilla, S. Puri & P. Simard, High Performance Convolutional Neural Networks for
//          Document Processing, IWFHR 2006 (convolution as GEMM); S. Chetlur et al., cuDNN,
//          arXiv:1410.0759, 2014 (the matrix of windows is never stored)
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#include "real.clh"
#include "epilogue.clh"
#include "tile.clh"

#ifndef WEIGHT_BITS
#define WEIGHT_BITS 32  // 32 | 16 | 8 | 4 | 2
#endif
#ifndef ZEROS
#define ZEROS 0  // 0 | 1   integers have zero points
#endif
#ifndef POINTWISE
#define POINTWISE 0  // 0 | 1   1x1, stride 1, no pads: plain addresses
#endif
#ifndef WIDE
#define WIDE 1  // 1 | 4   pixels an access: 4 where OH * OW is a multiple of 4
#endif
#ifndef WIDE_K
#define WIDE_K 1  // 1 | 4   plain weights a load: 4 where K is a multiple of 4
#endif
#ifndef MWG
#define MWG 64  // 8..128   output channels a group
#endif
#ifndef NWG
#define NWG 64  // 16..128   pixels a group
#endif
#ifndef KWG
#define KWG 16  // 8 | 16 | 32   depth of a slab
#endif
#ifndef TM
#define TM 4  // 1 | 2 | 4 | 8   output channels a work-item
#endif
#ifndef TN
#define TN 4  // 1 | 2 | 4 | 8   pixels a work-item
#endif
#ifndef SPLIT
#define SPLIT 1  // 1..32   groups that share a tile along K
#endif

#define TX (NWG / TN)
#define TY (MWG / TM)
#define WG (TX * TY)
#define ROW (MWG + 4)  // of the weights' slab; 4: the transposing stores hit other banks
#if MWG % TM != 0 || NWG % TN != 0 || WG % NWG != 0 || KWG % 8 != 0
#error "a tile is not whole: MWG % TM, NWG % TN, WG % NWG and KWG % 8 must be 0"
#endif
#if KWG % (WG / NWG) != 0 || (WIDE == 4 && TN % 4 != 0)
#error "WG / NWG must divide KWG, and WIDE must divide TN"
#endif
#if ZEROS && WEIGHT_BITS > 8
#error "plain weights have no zero points"
#endif

#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define PER_ITEM(loads) (((loads) + WG - 1) / WG)
#define MINE(l, loads) ((loads) % WG == 0 || (int)get_local_id(0) + (l) * WG < (loads))
#if TM * TN >= 64
#define DEPTH _Pragma("unroll 2")  // more makes some compilers spill
#else
#define DEPTH _Pragma("unroll 4")
#endif

// Rows of the table are the same for a whole wave where NWG is a multiple of 64: scalar loads, if
// only the compiler is told so.
#define SAME_IN_WAVE(x) (x)
#if defined(__AMDGCN__) && defined(__has_builtin) && NWG % 64 == 0
#if __has_builtin(__builtin_amdgcn_readfirstlane)
#undef SAME_IN_WAVE
#define SAME_IN_WAVE(x) __builtin_amdgcn_readfirstlane(x)
#endif
#endif

#define SIZES                                                                                   \
  const int BATCH, const int CIN, const int COUT, const int H, const int W, const int OH,       \
      const int OW, const int KH, const int KW, const int SH, const int SW, const int PT,       \
      const int PL, const int DH, const int DW, const int GROUP, const int BLOCK

__kernel __attribute__((reqd_work_group_size(32, 1, 1))) void conv_table(
    SIZES, __global int4* restrict table) {
  const int k = get_global_id(0), taps = KH * KW;
  const int c = k / taps, y = k % taps / KW, x = k % KW;
  // Beyond K: a row that no window has, also not the windows beyond N (they start at -2^29).
  table[k] = k < CIN / GROUP * taps
                 ? (int4)((int)((((uint)c * H + y * DH) * W + x * DW) * sizeof(real)), y * DH,
                          x * DW, 0)
                 : (int4)(0, 1 << 30, 0, 0);
}

// The weights' slab: fetched to registers early, stored to local memory [k][m] late.
#if WEIGHT_BITS >= 16
#if WEIGHT_BITS == 32
typedef float weight_t;
#define WEIGHT_GET(p, i) (p)[i]
#define WEIGHT_GET4(p, i) (*(const __global float4*)((p) + (i)))
#else
typedef half weight_t;
#define WEIGHT_GET(p, i) vload_half(i, p)
#define WEIGHT_GET4(p, i) vload_half4(0, (p) + (i))
#endif
#define CHUNK WIDE_K
#if WIDE_K == 4
typedef float4 chunk_t;
#else
typedef float chunk_t;
#endif
#else
typedef uchar weight_t;
#define CHUNK 8
#if WEIGHT_BITS == 8
typedef uint2 chunk_t;
#define INTEGER(q, i) (((i) < 4 ? (q).x >> ((i) % 4 * 8) : (q).y >> ((i) % 4 * 8)) & 255u)
#elif WEIGHT_BITS == 4
typedef uint chunk_t;
#define INTEGER(q, i) (((q) >> ((i) * 4)) & 15u)
#elif WEIGHT_BITS == 2
typedef ushort chunk_t;
#define INTEGER(q, i) (((uint)(q) >> ((i) * 2)) & 3u)
#else
#error "WEIGHT_BITS must be 32, 16, 8, 4 or 2"
#endif
#endif
#define W_LOADS (MWG * KWG / CHUNK)

// Pixels a fetch of X, and the fetches of a slab.
#define SPAN (POINTWISE && WIDE == 4 ? 4 : 1)
#define X_LOADS (KWG * NWG / SPAN)
#define X_ROWS MAX2(1, WG / (NWG / SPAN))  // rows that one round of all work-items covers
#if POINTWISE && WIDE == 4
typedef float4 pixels_t;
#define X_GET real_get4
#else
typedef float pixels_t;
#define X_GET real_get
#endif

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void conv(
    SIZES, const float lo, const float hi, const __global real* restrict X,
    const __global int4* restrict table, const __global weight_t* restrict weight,
    const __global real* restrict scales, const __global uchar* restrict zeros,
    const __global real* restrict bias, const __global real* restrict residual,
    __global real* restrict Y, __global float* restrict work) {
  __local float __attribute__((aligned(16))) ws[KWG * ROW];  // [k][m]
  __local float __attribute__((aligned(16))) xs[KWG * NWG];  // [k][n]
  const int tid = get_local_id(0), tx = tid % TX, ty = tid / TX;
  const int M = COUT / GROUP, C = CIN / GROUP, K = C * KH * KW;
  const int area = OH * OW, N = BATCH * area;
  const int tiles = (M + MWG - 1) / MWG;
  const int g = (int)get_group_id(1) / tiles, m0 = (int)get_group_id(1) % tiles * MWG;
  const int n0 = get_group_id(0) * NWG;
  const int share = ((K + KWG - 1) / KWG + SPLIT - 1) / SPLIT * KWG;
  const int first = (int)get_group_id(2) * share, last = min(K, first + share);

  // Where this work-item fetches weights: rows beyond M read row M - 1, and store nothing.
  const __global weight_t* w_row[PER_ITEM(W_LOADS)];
#if WEIGHT_BITS < 16
  const int blocks = (K + BLOCK - 1) / BLOCK;
  const int bytes = blocks * (BLOCK / 8) * WEIGHT_BITS;
  const int zero_bytes = (blocks * WEIGHT_BITS + 7) / 8;
  int w_block[PER_ITEM(W_LOADS)], w_in_block[PER_ITEM(W_LOADS)], w_number[PER_ITEM(W_LOADS)];
#endif
#pragma unroll
  for (int l = 0; l < PER_ITEM(W_LOADS); ++l) {
    const int at = tid + l * WG;
    const int row = g * M + min(m0 + at / (KWG / CHUNK) % MWG, M - 1);
#if WEIGHT_BITS < 16
    const int k = first + at % (KWG / CHUNK) * CHUNK;
    w_row[l] = weight + (size_t)row * bytes;
    w_number[l] = row;
    w_block[l] = k / BLOCK;
    w_in_block[l] = k % BLOCK;
#else
    w_row[l] = weight + (size_t)row * K;
#endif
  }

  // Where it fetches X: the window of one column (POINTWISE: of SPAN), KWG / X_ROWS rows of it.
  const int column = min(n0 + tid % (NWG / SPAN) * SPAN, N - SPAN);
  const int image = column / area, pixel = column % area;
  const __global real* base = X + ((size_t)image * CIN + (size_t)g * C) * H * W;
#if POINTWISE
  base += (size_t)(first + tid / (NWG / SPAN)) * area + pixel;
#else
  const bool outside = n0 + tid % NWG >= N;
  const int window_y = outside ? -(1 << 29) : pixel / OW * SH - PT;
  const int window_x = pixel % OW * SW - PL;
  // wraps where the window begins outside: then it is not read, or the table brings it back
  const uint start = ((uint)window_y * (uint)W + (uint)window_x) * (uint)sizeof(real);
  const int row0 = SAME_IN_WAVE(tid / NWG * (KWG / X_ROWS));
#endif

  float sums[TM][TN];
  TILE_ZERO(sums, TM, TN)
  chunk_t held_w[PER_ITEM(W_LOADS)];
  pixels_t held_x[PER_ITEM(X_LOADS)];
#if WEIGHT_BITS < 16
  float held_scale[PER_ITEM(W_LOADS)], held_zero[PER_ITEM(W_LOADS)];
#endif
  for (int k0 = first - KWG; k0 < last; k0 += KWG) {
    const int next = k0 + KWG;
    if (next < last) {
#pragma unroll
      for (int l = 0; l < PER_ITEM(W_LOADS); ++l) {
        const int k = next + (tid + l * WG) % (KWG / CHUNK) * CHUNK;
        const bool in = k < K && MINE(l, W_LOADS);
#if WEIGHT_BITS >= 16
#if WIDE_K == 4
        const chunk_t got = WEIGHT_GET4(w_row[l], in ? k : 0);
#else
        const chunk_t got = WEIGHT_GET(w_row[l], in ? k : 0);
#endif
        held_w[l] = in ? got : (chunk_t)(0.0f);
#else
        const int block = in ? w_block[l] : 0;
        held_w[l] = *(const __global chunk_t*)(w_row[l] + (in ? k : 0) / 8 * WEIGHT_BITS);
        held_scale[l] = real_get(scales, (size_t)w_number[l] * blocks + block);
#if ZEROS
        held_zero[l] =
            (float)((zeros[(size_t)w_number[l] * zero_bytes + block * WEIGHT_BITS / 8] >>
                     (block * WEIGHT_BITS % 8)) &
                    ((1 << WEIGHT_BITS) - 1));
#else
        held_zero[l] = (float)(1 << (WEIGHT_BITS - 1));
#endif
        w_in_block[l] += KWG;
        while (w_in_block[l] >= BLOCK) {
          w_in_block[l] -= BLOCK;
          ++w_block[l];
        }
#endif
      }
#if POINTWISE
#pragma unroll
      for (int l = 0; l < PER_ITEM(X_LOADS); ++l) {
        const bool in = next + tid / (NWG / SPAN) + l * X_ROWS < K && MINE(l, X_LOADS);
        const __global real* from = base + (size_t)l * X_ROWS * area;
        const pixels_t got = X_GET(in ? from : X, 0);
        held_x[l] = in ? got : (pixels_t)(0.0f);
      }
      base += (size_t)KWG * area;
#else
      const __global int4* entries = table + next + row0;
#pragma unroll
      for (int l = 0; l < PER_ITEM(X_LOADS); ++l) {
        const int4 entry = entries[l];
        const bool in = (uint)(window_y + entry.y) < (uint)H && (uint)(window_x + entry.z) < (uint)W;
        const uint at = in ? start + (uint)entry.x : 0u;
        const float got = real_get((const __global real*)((const __global char*)base + at), 0);
        held_x[l] = in ? got : 0.0f;
      }
#endif
    }
    if (k0 >= first) {
      DEPTH
      for (int k = 0; k < KWG; ++k) {
        float a[TM], b[TN];
        TILE_TAKE(a, ws + k * ROW, TM, ty, TY)
        TILE_TAKE(b, xs + k * NWG, TN, tx, TX)
        TILE_ADD(sums, a, b, TM, TN)
      }
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (next < last) {
#pragma unroll
      for (int l = 0; l < PER_ITEM(W_LOADS); ++l) {
        const int at = tid + l * WG;
        __local float* to = ws + at % (KWG / CHUNK) * CHUNK * ROW + at / (KWG / CHUNK);
        if (MINE(l, W_LOADS)) {
#if WEIGHT_BITS < 16
          const int rest = K - next - at % (KWG / CHUNK) * CHUNK;
#pragma unroll
          for (int i = 0; i < CHUNK; ++i)
            to[i * ROW] = i < rest ? ((float)INTEGER(held_w[l], i) - held_zero[l]) * held_scale[l]
                                   : 0.0f;
#elif WIDE_K == 4
          to[0] = held_w[l].x;
          to[ROW] = held_w[l].y;
          to[2 * ROW] = held_w[l].z;
          to[3 * ROW] = held_w[l].w;
#else
          to[0] = held_w[l];
#endif
        }
      }
#pragma unroll
      for (int l = 0; l < PER_ITEM(X_LOADS); ++l) {
#if POINTWISE
        if (MINE(l, X_LOADS)) *(__local pixels_t*)(xs + (tid + l * WG) * SPAN) = held_x[l];
#else
        xs[(tid / NWG * (KWG / X_ROWS) + l) * NWG + tid % NWG] = held_x[l];
#endif
      }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

#if SPLIT > 1
  work += (size_t)get_group_id(2) * COUT * N;
#endif
#pragma unroll
  for (int j = 0; j < TN; j += WIDE) {
    const int n = n0 + TILE_PLACE(j, TN, tx, TX);
    if (n < N) {
      const size_t channel = (size_t)(n / area) * COUT + g * M;
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        const int m = m0 + TILE_PLACE(i, TM, ty, TY);
        if (m < M) {
          const size_t at = (channel + m) * area + n % area;
#if WIDE == 4
          const float4 sum = (float4)(sums[i][j], sums[i][(j + 1) % TN], sums[i][(j + 2) % TN],
                                      sums[i][(j + 3) % TN]);
#if SPLIT > 1
          *(__global float4*)(work + at) = sum;
#else
          const float b = BIAS ? real_get(bias, g * M + m) : 0.0f;
          const float4 s = RESIDUAL ? real_get4(residual, at) : (float4)(0.0f);
          real_put4((float4)(epilogue(sum.x, b, s.x, lo, hi), epilogue(sum.y, b, s.y, lo, hi),
                             epilogue(sum.z, b, s.z, lo, hi), epilogue(sum.w, b, s.w, lo, hi)),
                    Y, at);
#endif
#elif SPLIT > 1
          work[at] = sums[i][j];
#else
          real_put(epilogue(sums[i][j], BIAS ? real_get(bias, g * M + m) : 0.0f,
                            RESIDUAL ? real_get(residual, at) : 0.0f, lo, hi),
                   Y, at);
#endif
        }
      }
    }
  }
}

__kernel __attribute__((reqd_work_group_size(256, 1, 1))) void conv_sum(
    SIZES, const float lo, const float hi, const __global float* restrict work,
    const __global real* restrict bias, const __global real* restrict residual,
    __global real* restrict Y) {
  const size_t area = (size_t)OH * OW, all = area * COUT * BATCH, at = get_global_id(0);
  if (at >= all) return;
  float sum = work[at];
#pragma unroll
  for (int s = 1; s < SPLIT; ++s) sum += work[s * all + at];
  real_put(epilogue(sum, BIAS ? real_get(bias, at / area % COUT) : 0.0f,
                    RESIDUAL ? real_get(residual, at) : 0.0f, lo, hi),
           Y, at);
}
