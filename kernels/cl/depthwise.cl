// depthwise: Y = act(conv2d(X, weight) + bias + residual), every channel for itself.
//
// A work-item makes TH x TW outputs of one plane from the (TH - 1) STRIDE + KSIZE rows that they
// need, each row fetched once; the weights of a plane are the same for a whole group where
// ONE_PLANE is 1, and lie in scalar registers then.
//
// Buffers  X (BATCH,CIN,H,W)  weight (CIN*MULT,KH,KW)  bias (CIN*MULT)  residual as Y
//          Y (BATCH,CIN*MULT,OH,OW), type real; 1D: H = KH = OH = SH = DH = 1, PT = 0
// Launch   T = ceil(OH / TH) * ceil(OW / TW) tiles, P = BATCH * CIN * MULT planes, local (WG, 1, 1)
//          ONE_PLANE 1: global (ceil(T / WG) * WG, P, 1); 0: (ceil(T * P / WG) * WG, 1, 1)
// Limits   a plane < 2^29 elements; T * P < 2^31 - WG.
//          KSIZE > 0: KH = KW = KSIZE, SH = SW = STRIDE, DH = DW = 1; WIDE > 1: besides STRIDE 1,
//          PL = KSIZE / 2, OW = W, a multiple of WIDE
// Accuracy |Y - exact| <= 1.14 * g * (|weight| * |X| + |bias| + |residual|) + what the epilogue
//          states, g = n u / (1 - n u), n = KH KW + 2, u = 2^-24; half rounds each stored Y once more
// Source   N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#include "real.clh"
#include "epilogue.clh"

#ifndef KSIZE
#define KSIZE 0  // 0 any | 3 | 5 | 7   square kernel without dilation
#endif
#ifndef STRIDE
#define STRIDE 1  // 1 | 2   of both axes, where KSIZE is not 0
#endif
#ifndef WIDE
#define WIDE 1  // 1 | 2 | 4   elements an access
#endif
#ifndef TW
#define TW 1  // 1 | 2 | 4 | 8   outputs of a row a work-item
#endif
#ifndef TH
#define TH 1  // 1 | 2 | 4   rows of outputs a work-item
#endif
#ifndef WG
#define WG 64  // 64 | 128 | 256   work-items a group
#endif
#ifndef ONE_PLANE
#define ONE_PLANE 0  // 0 | 1   a group stays in one plane
#endif
#if KSIZE == 0 && (TW != 1 || TH != 1 || WIDE != 1)
#error "kernels of any size make one output a work-item"
#endif
#if WIDE > 1 && (WIDE != TW || STRIDE != 1)
#error "WIDE must be TW, and STRIDE 1"
#endif

#define SPAN ((TW - 1) * STRIDE + KSIZE)  // columns of X that TW outputs need
#define ROWS ((TH - 1) * STRIDE + KSIZE)  // rows
#define HALO (KSIZE / 2)
// Bytes from the plane's start: 32 bits, added to an address that the whole group shares.
#define AT(bytes) ((const __global real*)((const __global char*)from + (bytes)))

#if WIDE == 4
#define WIDE_GET(to, p)                      \
  {                                          \
    const float4 run_ = real_get4(p, 0);     \
    to[0] = run_.x;                          \
    to[1 % SPAN] = run_.y;                   \
    to[2 % SPAN] = run_.z;                   \
    to[3 % SPAN] = run_.w;                   \
  }
#elif WIDE == 2
#define WIDE_GET(to, p)                      \
  {                                          \
    const float2 run_ = real_get2(p, 0);     \
    to[0] = run_.x;                          \
    to[1 % SPAN] = run_.y;                   \
  }
#endif

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void depthwise(
    const int BATCH, const int CIN, const int MULT, const int H, const int W, const int OH,
    const int OW, const int KH, const int KW, const int SH, const int SW, const int PT,
    const int PL, const int DH, const int DW, const float lo, const float hi,
    const __global real* restrict X, const __global real* restrict weight,
    const __global real* restrict bias, const __global real* restrict residual,
    __global real* restrict Y) {
  const int across = (OW + TW - 1) / TW, tiles = across * ((OH + TH - 1) / TH);
#if ONE_PLANE
  const int plane = get_group_id(1), tile = get_global_id(0);
  if (tile >= tiles) return;
#else
  const int plane = (int)get_global_id(0) / tiles, tile = (int)get_global_id(0) % tiles;
  if (plane >= BATCH * CIN * MULT) return;
#endif
  const int channel = plane % (CIN * MULT);
  const int oy = tile / across * TH, ox = tile % across * TW;
  const __global real* from = X + (size_t)(plane / MULT) * H * W;  // (b CIN MULT + c) / MULT
  const float b = BIAS ? real_get(bias, channel) : 0.0f;
#if KSIZE == 0
  const __global real* taps = weight + (size_t)channel * KH * KW;
  float sum = 0.0f;
  for (int ky = 0; ky < KH; ++ky) {
    const int y = oy * SH - PT + ky * DH;
    if ((uint)y < (uint)H) {
      for (int kx = 0; kx < KW; ++kx) {
        const int x = ox * SW - PL + kx * DW;
        if ((uint)x < (uint)W)
          sum = mad(real_get(taps, ky * KW + kx), real_get(from, y * W + x), sum);
      }
    }
  }
  const size_t at = (size_t)plane * OH * OW + oy * OW + ox;
  real_put(epilogue(sum, b, RESIDUAL ? real_get(residual, at) : 0.0f, lo, hi), Y, at);
#else
  float taps[KSIZE * KSIZE];
#pragma unroll
  for (int k = 0; k < KSIZE * KSIZE; ++k)
    taps[k] = real_get(weight + (size_t)channel * (KSIZE * KSIZE), k);
  // Columns of the window: whether X has them, and where they are read (0 if not).
  const int left = ox * STRIDE - PL;
  bool in[SPAN];
  uint column[SPAN];
#pragma unroll
  for (int j = 0; j < SPAN; ++j) {
    in[j] = (uint)(left + j) < (uint)W;
    column[j] = in[j] ? (uint)(left + j) * (uint)sizeof(real) : 0u;
  }
  float sums[TH][TW];
#pragma unroll
  for (int i = 0; i < TH * TW; ++i) sums[i / TW][i % TW] = 0.0f;
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int y = oy * STRIDE - PT + r;
    const bool here = (uint)y < (uint)H;
    const uint row = here ? (uint)(y * W) * (uint)sizeof(real) : 0u;
    float x[SPAN];
#pragma unroll
    for (int j = 0; j < SPAN; ++j) {
#if WIDE > 1
      if (j == HALO) WIDE_GET((x + HALO), AT(row + column[HALO]))
      if (j >= HALO && j < HALO + WIDE) {
        x[j] = here ? x[j] : 0.0f;
        continue;
      }
#endif
      const float got = real_get(AT(row + column[j]), 0);
      x[j] = here && in[j] ? got : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < TH; ++i) {
      const int ky = r - i * STRIDE;
      if (ky >= 0 && ky < KSIZE) {
#pragma unroll
        for (int j = 0; j < TW; ++j)
#pragma unroll
          for (int kx = 0; kx < KSIZE; ++kx)
            sums[i][j] = mad(taps[ky * KSIZE + kx], x[j * STRIDE + kx], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < TH; ++i) {
    const size_t at = (size_t)plane * OH * OW + (oy + i) * OW + ox;
    if (oy + i < OH) {
#if WIDE == 4
      const float4 s = RESIDUAL ? real_get4(residual, at) : (float4)(0.0f);
      real_put4((float4)(epilogue(sums[i][0], b, s.x, lo, hi), epilogue(sums[i][1], b, s.y, lo, hi),
                         epilogue(sums[i][2], b, s.z, lo, hi),
                         epilogue(sums[i][3], b, s.w, lo, hi)),
                Y, at);
#elif WIDE == 2
      const float2 s = RESIDUAL ? real_get2(residual, at) : (float2)(0.0f);
      real_put2(
          (float2)(epilogue(sums[i][0], b, s.x, lo, hi), epilogue(sums[i][1], b, s.y, lo, hi)), Y,
          at);
#else
#pragma unroll
      for (int j = 0; j < TW; ++j)
        if (ox + j < OW)
          real_put(epilogue(sums[i][j], b, RESIDUAL ? real_get(residual, at + j) : 0.0f, lo, hi), Y,
                   at + j);
#endif
    }
  }
#endif
}
