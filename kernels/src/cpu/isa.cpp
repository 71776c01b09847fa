#include "cpu/isa.h"

namespace rx::cpu {

Isa isa() {
  return Isa::kBaseline;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kBaseline:
      break;
  }
  return "baseline";
}

bool force(Isa isa) {
  return isa == Isa::kBaseline;
}

}  // namespace rx::cpu
