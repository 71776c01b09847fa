// Everything of this folder, and the table of it: included once by each kernels_*.cpp.
#pragma once

#include "cpu/micro/finish.h"
#include "cpu/micro/half.h"
#include "cpu/micro/image.h"
#include "cpu/micro/product.h"
#include "cpu/micro/quant.h"

namespace rx::cpu {
namespace {

constexpr Kernels kTable = {kQuantRows, tile_row,      quant_row,    restore,    finish,
                            pack_strip, pack_pixels,   every_second, add_margin, tap_plane,
                            tap_masks,  restore_block, to_float,     to_half};

}  // namespace
}  // namespace rx::cpu
