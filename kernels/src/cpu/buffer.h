// Memory aligned to a cache line, owned.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace rx::cpu {

constexpr std::size_t kLine = 64;

struct Free {
  void operator()(void* data) const { std::free(data); }
};

// Elements of T, not initialised, the first one at the start of a cache line.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  // Throws std::bad_alloc.
  explicit Buffer(std::size_t size) : size_(size) {
    const std::size_t bytes = (size * sizeof(T) + kLine - 1) / kLine * kLine;
    if (bytes == 0) return;
    data_.reset(static_cast<T*>(std::aligned_alloc(kLine, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
  }

  T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace rx::cpu
