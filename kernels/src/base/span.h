// A view of consecutive elements (std::span comes with C++20).
#pragma once

#include <cstddef>
#include <vector>

namespace rx {

template <typename T>
class Span {
 public:
  Span() = default;
  Span(T* data, std::size_t size) : data_(data), size_(size) {}
  template <typename U>
  Span(std::vector<U>& all) : data_(all.data()), size_(all.size()) {}  // NOLINT
  template <typename U>
  Span(const std::vector<U>& all) : data_(all.data()), size_(all.size()) {}  // NOLINT

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  T& operator[](std::size_t index) const { return data_[index]; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace rx
