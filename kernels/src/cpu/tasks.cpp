#include "cpu/tasks.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace rx::cpu {
namespace {

class Pool {
 public:
  Buffer<float> take(std::size_t size) {
    Buffer<float> found;
    {
      const std::lock_guard<std::mutex> lock(guard_);
      // the smallest that is large enough; else the largest, which is dropped
      auto best = buffers_.end();
      for (auto at = buffers_.begin(); at != buffers_.end(); ++at) {
        const bool fits = at->size() >= size;
        if (best == buffers_.end() ||
            (fits && (best->size() < size || at->size() < best->size())) ||
            (!fits && at->size() > best->size() && best->size() < size))
          best = at;
      }
      if (best != buffers_.end()) {
        found = std::move(*best);
        buffers_.erase(best);
      }
    }
    if (found.data() != nullptr && found.size() >= size) return found;
    found = {};
    return Buffer<float>(size);
  }

  void give(Buffer<float> buffer) noexcept {
    try {
      const std::lock_guard<std::mutex> lock(guard_);
      buffers_.push_back(std::move(buffer));
    } catch (...) {  // no memory for the list: the buffer is freed
    }
  }

 private:
  std::mutex guard_;
  std::vector<Buffer<float>> buffers_;
};

Pool& pool() {
  static Pool all;
  return all;
}

constexpr double kWorthwhile = 1 << 17;  // multiplications: some microseconds
constexpr std::int64_t kForEach = 4;

}  // namespace

Scratch::Scratch(std::int64_t floats)
    : buffer_(pool().take(static_cast<std::size_t>(std::max<std::int64_t>(floats, 16)))) {}

Scratch::~Scratch() {
  pool().give(std::move(buffer_));
}

std::int64_t pieces(const Threads& threads, std::int64_t total, double cost) {
  const auto count = static_cast<std::int64_t>(threads.count());
  if (count <= 1 || total <= 1) return 1;
  const double most = static_cast<double>(total) * cost / kWorthwhile;
  const double some = std::min(most, static_cast<double>(std::min(total, count * kForEach)));
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(some));
}

}  // namespace rx::cpu
