// Device buffers, reused by size class.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "base/tensor.h"
#include "opencl/api.h"
#include "opencl/device.h"

namespace rx::opencl {

class Pool;

// Memory that waits for reuse, by size.
using Waiting = std::multimap<std::size_t, cl_mem>;

// Where released blocks of one stream wait: its next tensor may have them at once, since its
// commands run in order, the rest of the process only when they have ended.
class Shelf {
 public:
  void put(std::size_t capacity, cl_mem memory);
  cl_mem take(std::size_t wanted, std::size_t& capacity);  // null: none that fits
  Waiting drain();

 private:
  std::mutex guard_;
  Waiting waiting_;
};

// A shared handle of device memory; the last one gives it back. May outlive its stream.
class Buffer {
 public:
  struct Block {
    Block(Pool& home, cl_mem memory, std::size_t bytes, std::size_t capacity,
          std::shared_ptr<Shelf> shelf, bool reusable)
        : home(home),
          memory(memory),
          bytes(bytes),
          capacity(capacity),
          shelf(std::move(shelf)),
          reusable(reusable) {}
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    Pool& home;
    cl_mem memory;
    std::size_t bytes;     // that were asked for
    std::size_t capacity;  // of the device's memory; 0: the host's
    std::weak_ptr<Shelf> shelf;
    bool reusable;
  };

  Buffer() = default;
  explicit Buffer(std::shared_ptr<const Block> block) : block_(std::move(block)) {}
  bool valid() const { return block_ != nullptr; }
  cl_mem memory() const { return block_ ? block_->memory : nullptr; }
  std::size_t bytes() const { return block_ ? block_->bytes : 0; }

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

// Thread-safe. Must outlive its buffers.
class Pool {
 public:
  // Keeps at most `bound` bytes for reuse.
  Pool(const Device& device, cl_context context, std::size_t bound);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Memory for a while, of the size class of `bytes` (at most an eighth more), without contents.
  // It returns to `shelf` while that lives, else to the pool. Throws Error when the device is out
  // of memory, after what is kept was freed.
  Buffer take(std::size_t bytes, const std::shared_ptr<Shelf>& shelf);
  // Memory of exactly that size, for constants: freed with the last handle.
  Buffer exact(std::size_t bytes);
  // The host's own memory, for devices that share it.
  Buffer wrap(void* host, std::size_t bytes, bool writable);

  void give_back(Waiting waiting);
  void trim();  // frees what is kept
  PoolCounts counts() const;

  // What to throw where the driver answered `code` to a request for `bytes` more.
  [[noreturn]] void out_of_memory(std::size_t bytes, const char* why) const;

 private:
  friend struct Buffer::Block;
  cl_mem create(std::size_t bytes, std::size_t capacity, cl_bitfield flags, void* host);
  void release(const Buffer::Block& block) noexcept;
  void free_all(const Waiting& waiting) const noexcept;

  const Device& device_;
  cl_context context_;
  std::size_t bound_;
  mutable std::mutex guard_;
  Waiting waiting_;
  std::size_t idle_ = 0;  // bytes of waiting_
  PoolCounts counts_;
};

// The capacity that is made for `bytes`: eighths of a power of two, at least 256 bytes.
std::size_t size_class(std::size_t bytes);

}  // namespace rx::opencl
