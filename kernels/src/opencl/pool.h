// Device buffers, reused by size class.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/tensor.h"
#include "opencl/api.h"

namespace rx::opencl {

class Context;
class Pool;

// Where released blocks wait: of the device, or of one stream while it runs.
class Shelf;

// A shared handle of device memory; the last one gives it back. Safe to hold after the stream that
// it came from has ended.
class Buffer {
 public:
  struct Block;

  Buffer() = default;
  explicit Buffer(std::shared_ptr<const Block> block) : block_(std::move(block)) {}
  bool valid() const { return block_ != nullptr; }
  cl_mem memory() const;
  std::size_t bytes() const;  // that were asked for

 private:
  std::shared_ptr<const Block> block_;
};

// A tensor in device memory. Copies share the memory.
struct DeviceTensor {
  Type type = Type::kNone;
  Shape shape;
  Buffer buffer;  // invalid for an absent input and for a constant (Operator::upload has it)

  bool present() const { return type != Type::kNone; }
  std::int64_t count() const { return elements(shape); }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(type); }
};

struct PoolCounts {
  std::size_t in_use = 0;   // bytes that handles own
  std::size_t kept = 0;     // bytes that wait for reuse
  std::size_t created = 0;  // buffers made since the beginning
  std::size_t reused = 0;
};

}  // namespace rx::opencl
