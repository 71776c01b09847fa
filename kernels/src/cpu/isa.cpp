#include "cpu/isa.h"

#include <atomic>

#include "cpu/kernels.h"

#if defined(RX_X86)
#include <cpuid.h>
#endif

namespace rx::cpu {
namespace {

#if defined(RX_X86)
bool has_half() {  // F16C: asked for here, as __builtin_cpu_supports knows it in new compilers only
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

bool available(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return true;
#if defined(RX_X86)
    case Isa::kAvx2:
      __builtin_cpu_init();
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_half();
    case Isa::kAvx512:
      return available(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

Isa best() {
  if (available(Isa::kAvx512)) return Isa::kAvx512;
  return available(Isa::kAvx2) ? Isa::kAvx2 : Isa::kBaseline;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{best()};
  return isa;
}

}  // namespace

Isa isa() {
  return chosen().load(std::memory_order_relaxed);
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
  if (!available(isa)) return false;
  chosen() = isa;
  return true;
}

const Kernels& kernels() {
#if defined(RX_X86)
  switch (isa()) {
    case Isa::kAvx512:
      return kAvx512;
    case Isa::kAvx2:
      return kAvx2;
    case Isa::kBaseline:
      break;
  }
#endif
  return kBaseline;
}

}  // namespace rx::cpu
