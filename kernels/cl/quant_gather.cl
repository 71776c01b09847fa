// quant_gather: rows of an embedding of few bits, dequantized: Y[i] = W[indices[i]].
//
// Buffers  row-major, contiguous, offset 0: data uint8 (ROWS, ceil(COLUMNS/block)*block*BITS/8);
//          indices int or long (COUNT); scales (ROWS, ceil(COLUMNS/block)) half or float; zeros
//          uint8 (ROWS, ceil(ceil(COLUMNS/block)*BITS/8)) if ZEROS, else any buffer; Y (COUNT,
//          COLUMNS) real; fault (1) int, INT_MAX before the launch.
// Launch   global (ceil(ceil(COLUMNS/8)/WG)*WG, COUNT), local (WG, 1): 8 elements a work-item.
// Faults   A negative index counts from the end. Out of range: the row becomes NaN, nothing is read
//          for it, and fault[0] becomes the least such place i in `indices`. The host reads fault[0]
//          after the launch and refuses, or checks indices that it has before.
// Limits   COUNT, ROWS, COLUMNS >= 1; block % 8 == 0; COUNT * COLUMNS may pass 2^31, COUNT may not
// Accuracy |Y - exact| <= u * |exact|, u = 2^-24: an integer is exact, a scale multiplies it once;
//          then half an ulp of half where REAL_BITS is 16
//
// Parameters: these defaults must work everywhere; tuned values live in kernels/params/.
#ifndef BITS
#define BITS 4  // 2 | 4 | 8   of a stored weight
#endif
#ifndef ZEROS
#define ZEROS 0  // 0 | 1   zero points are stored
#endif
#ifndef INDEX_BITS
#define INDEX_BITS 64  // 32 | 64   of an index
#endif
#ifndef SCALE_BITS
#define SCALE_BITS 32  // 16 | 32   element type of the scales
#endif
#ifndef VEC
#define VEC 1  // 1 | 4   elements that a store moves; 4: COLUMNS is a multiple of 4
#endif
#ifndef WG
#define WG 64  // 16..256   work-items per group
#endif
#define PIECE 8

#include "dequant.clh"
#include "real.clh"

#if BITS > 8
#error "BITS must be 2, 4 or 8"
#endif
#if VEC != 1 && VEC != 4
#error "VEC must be 1 or 4"
#endif
#if INDEX_BITS == 64
typedef long index_t;
#elif INDEX_BITS == 32
typedef int index_t;
#else
#error "INDEX_BITS must be 32 or 64"
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

// Stores 4 elements, as far as the row goes.
static inline void put(const float4 x, __global real* y, const size_t row, const int column,
                       const int columns) {
#if VEC == 4
  if (column < columns) real_put4(x, y, row + column);
#else
  if (column < columns) real_put(x.x, y, row + column);
  if (column + 1 < columns) real_put(x.y, y, row + column + 1);
  if (column + 2 < columns) real_put(x.z, y, row + column + 2);
  if (column + 3 < columns) real_put(x.w, y, row + column + 3);
#endif
}

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void quant_gather(
    const int COUNT, const int ROWS, const int COLUMNS, const int block,
    const __global uchar* restrict data, const __global index_t* restrict indices,
    const __global scale_t* restrict scales, const __global uchar* restrict zeros,
    __global real* restrict y, __global int* restrict fault) {
  const int column = (int)get_global_id(0) * 8, i = get_group_id(1);
  if (column >= COLUMNS) return;
  const uint blocks = (uint)(COLUMNS - 1) / (uint)block + 1;
  const long index = indices[i], row = index < 0 ? index + ROWS : index;
  const size_t to = (size_t)i * COLUMNS;
  if (row < 0 || row >= ROWS) {
    if (column == 0) atomic_min(fault, i);
    put((float4)(NAN), y, to, column, COLUMNS);
    put((float4)(NAN), y, to, column + 4, COLUMNS);
    return;
  }
  const uint here = (uint)column / (uint)block;
  const __global piece_t* from =
      (const __global piece_t*)(data + (size_t)row * (blocks * (uint)block * BITS / 8));
  const piece_t piece = from[column / 8];
  const float scale = LOAD_SCALE(scales, (size_t)row * blocks + here) * (1.0f / DEQUANT_FACTOR);
  uint zero = 0;
#if ZEROS
  zero = zeros[(size_t)row * ((blocks * BITS + 7) / 8) + here * BITS / 8];
  zero = zero >> (here * BITS % 8) & ((1 << BITS) - 1);
#endif
  const uint hide = (uint)(COLUMNS >> 31);  // 0; see dequant.clh
  put(dequant4(piece, 0, dequant_zero(zero), hide) * scale, y, to, column, COLUMNS);
  put(dequant4(piece, 1, dequant_zero(zero), hide) * scale, y, to, column + 4, COLUMNS);
}
