// Failures on demand, for tests: always compiled in, one relaxed load where they are off.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <string>

namespace rx::opencl {

enum class Point : std::size_t { kAllocate, kBuild, kEnqueue, kMap, kRead, kWrite };

class Faults {
 public:
  // The nth next call of that point fails, once; 0: none does. Throws Error for an unknown point.
  static void set(const std::string& point, int nth);

  // Whether the call that is about to be made has to fail.
  static bool now(Point point) noexcept {
    std::atomic<int>& left = left_[static_cast<std::size_t>(point)];
    return left.load(std::memory_order_relaxed) != 0 && counted(left);
  }

 private:
  static bool counted(std::atomic<int>& left) noexcept;
  static std::array<std::atomic<int>, 6> left_;
};

}  // namespace rx::opencl
