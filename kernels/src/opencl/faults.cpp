#include "opencl/faults.h"

#include <algorithm>

#include "base/error.h"

namespace rx::opencl {

std::array<std::atomic<int>, 6> Faults::left_{};

void Faults::set(const std::string& point, int nth) {
  static constexpr std::array<const char*, 6> kNames{"allocate", "build", "enqueue",
                                                     "map",      "read",  "write"};
  const auto* found = std::find(kNames.begin(), kNames.end(), point);
  require(found != kNames.end(), "there is no fault point '", point, "'");
  require(nth >= 0, "a fault is set for the nth call, n >= 0, not ", nth);
  left_[static_cast<std::size_t>(found - kNames.begin())].store(nth);
}

bool Faults::counted(std::atomic<int>& left) noexcept {
  int now = left.load();
  while (now != 0 && !left.compare_exchange_weak(now, now - 1)) {
  }
  return now == 1;
}

}  // namespace rx::opencl
