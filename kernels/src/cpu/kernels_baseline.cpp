// For every machine: vectors of 128 bits, no special flags.
#define RX_LANES 4
#include "cpu/micro/all.h"

namespace rx::cpu {

const Kernels kBaseline = kTable;

}  // namespace rx::cpu
