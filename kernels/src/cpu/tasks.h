// Work in pieces: ranges, scratch memory, and errors of threads that may not throw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>

#include "base/threads.h"
#include "cpu/buffer.h"

namespace rx::cpu {

// Floats of a pool: given back when this ends, so that nothing is allocated in the long run. The
// pool holds about as many buffers as threads were at work at once, each as large as was asked for.
class Scratch {
 public:
  // Throws std::bad_alloc.
  explicit Scratch(std::int64_t floats);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() const { return buffer_.data(); }

 private:
  Buffer<float> buffer_;
};

struct Range {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t size() const { return end - begin; }
};

// The part `index` of `parts` nearly equal ones of [0, total).
inline Range part_of(std::int64_t total, std::int64_t index, std::int64_t parts) {
  const std::int64_t size = total / parts;
  const std::int64_t more = total % parts;
  const std::int64_t begin = index * size + (index < more ? index : more);
  return {begin, begin + size + (index < more ? 1 : 0)};
}

// Into how many pieces to cut `total` units of work, each as long as `cost` multiplications: some
// for each thread, as threads are seldom equally fast, and none so short that handing it over
// costs more than it saves.
std::int64_t pieces(const Threads& threads, std::int64_t total, double cost);

// Calls function(i) for i in [0, total) on the threads. What one of them throws is thrown here.
template <typename Function>
void run_tasks(Threads& threads, std::int64_t total, Function&& function) {
  if (total == 1) return function(std::int64_t{0});
  std::mutex guard;
  std::exception_ptr first;
  threads.each(static_cast<std::size_t>(total), [&](std::size_t index) {
    try {
      function(static_cast<std::int64_t>(index));
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!first) first = std::current_exception();
    }
  });
  if (first) std::rethrow_exception(first);
}

// The same for ranges of [0, total), `cost` being that of one unit.
template <typename Function>
void run_ranges(Threads& threads, std::int64_t total, double cost, Function&& function) {
  const std::int64_t parts = pieces(threads, total, cost);
  run_tasks(threads, parts, [&](std::int64_t part) { function(part_of(total, part, parts)); });
}

}  // namespace rx::cpu
