// Inputs and outputs of type float32 or float16, seen as float32.
#pragma once

#include <vector>

#include "base/tensor.h"
#include "base/threads.h"
#include "cpu/buffer.h"

namespace rx {

// The numbers of a tensor as float32: its own memory, or a copy where they are stored as float16.
// Null for an absent tensor.
class Reals {
 public:
  Reals(Threads& threads, const Tensor& tensor);
  const float* data() const { return data_; }

 private:
  cpu::Buffer<float> copy_;
  const float* data_ = nullptr;
};

// Where float32 results for a tensor are written; store() brings them there.
class RealsOut {
 public:
  explicit RealsOut(const Tensor& tensor);
  float* data() const { return data_; }
  void store(Threads& threads) const;

 private:
  Tensor tensor_;
  cpu::Buffer<float> copy_;
  float* data_ = nullptr;
};

}  // namespace rx
