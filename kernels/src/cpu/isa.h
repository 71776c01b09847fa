// The instruction sets that this library has code for, and the one in use.
#pragma once

namespace rx::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The best one of this machine that was compiled in, unless force() chose another.
Isa isa();
const char* name_of(Isa isa);  // "baseline", "avx2", "avx512"

// Tests: uses that one from now on; false where this machine or this build does not have it.
bool force(Isa isa);

}  // namespace rx::cpu
