// Compiled with the instruction set of its name (see CMakeLists.txt).
#if defined(RX_X86)
#define RX_LANES 16
#include "cpu/micro/all.h"

namespace rx::cpu {

const Kernels kAvx512 = kTable;

}  // namespace rx::cpu
#endif  // RX_X86
