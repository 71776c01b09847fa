#include "opencl/pool.h"

#include <algorithm>

#include "base/error.h"
#include "opencl/faults.h"
#include "opencl/loader.h"

namespace rx::opencl {
namespace {

// The smallest block that waits and is not much larger than what is wanted.
cl_mem take_from(Waiting& waiting, std::size_t wanted, std::size_t& capacity) {
  const auto found = waiting.lower_bound(wanted);
  if (found == waiting.end() || found->first > wanted + wanted / 4) return nullptr;
  capacity = found->first;
  const cl_mem memory = found->second;
  waiting.erase(found);
  return memory;
}

}  // namespace

std::size_t size_class(std::size_t bytes) {
  std::size_t power = 256;
  while (power < bytes && power <= SIZE_MAX / 2) power *= 2;
  if (bytes <= 256) return power;
  const std::size_t step = power / 16;  // an eighth of the power below
  return bytes > SIZE_MAX - step ? bytes : (bytes + step - 1) / step * step;
}

void Shelf::put(std::size_t capacity, cl_mem memory) {
  const std::lock_guard<std::mutex> lock(guard_);
  waiting_.emplace(capacity, memory);
}

cl_mem Shelf::take(std::size_t wanted, std::size_t& capacity) {
  const std::lock_guard<std::mutex> lock(guard_);
  return take_from(waiting_, wanted, capacity);
}

Waiting Shelf::drain() {
  const std::lock_guard<std::mutex> lock(guard_);
  return std::exchange(waiting_, {});
}

Buffer::Block::~Block() {
  home.release(*this);
}

Pool::Pool(const Device& device, cl_context context, std::size_t bound)
    : device_(device), context_(context), bound_(bound) {}

Pool::~Pool() {
  free_all(waiting_);
}

Buffer Pool::take(std::size_t bytes, const std::shared_ptr<Shelf>& shelf) {
  if (Faults::now(Point::kAllocate)) out_of_memory(bytes, name_of(kMemoryAllocationFailure));
  const std::size_t wanted =
      size_class(bytes) <= device_.most_at_once ? size_class(bytes) : std::max(bytes, size_t{1});
  std::size_t capacity = wanted;
  cl_mem memory = shelf ? shelf->take(wanted, capacity) : nullptr;
  {
    const std::lock_guard<std::mutex> lock(guard_);
    if (memory == nullptr && (memory = take_from(waiting_, wanted, capacity)) != nullptr)
      idle_ -= capacity;
    if (memory != nullptr) {
      counts_.kept -= capacity;
      counts_.in_use += capacity;
      ++counts_.reused;
    }
  }
  if (memory == nullptr) memory = create(bytes, wanted, kMemoryReadWrite, nullptr);
  return Buffer(std::make_shared<Buffer::Block>(*this, memory, bytes, capacity, shelf, true));
}

Buffer Pool::exact(std::size_t bytes) {
  if (Faults::now(Point::kAllocate)) out_of_memory(bytes, name_of(kMemoryAllocationFailure));
  const std::size_t size = std::max(bytes, std::size_t{1});
  const cl_mem memory = create(bytes, size, kMemoryReadWrite, nullptr);
  return Buffer(std::make_shared<Buffer::Block>(*this, memory, bytes, size, nullptr, false));
}

Buffer Pool::wrap(void* host, std::size_t bytes, bool writable) {
  if (Faults::now(Point::kAllocate)) out_of_memory(bytes, name_of(kMemoryAllocationFailure));
  const cl_bitfield access = writable ? kMemoryReadWrite : kMemoryReadOnly;
  cl_int code = kSuccess;
  const cl_mem memory =
      device_.api->clCreateBuffer(context_, access | kMemoryUseHostPointer, bytes, host, &code);
  if (code != kSuccess) out_of_memory(bytes, name_of(code));
  return Buffer(std::make_shared<Buffer::Block>(*this, memory, bytes, 0, nullptr, false));
}

cl_mem Pool::create(std::size_t bytes, std::size_t capacity, cl_bitfield flags, void* host) {
  if (capacity > device_.most_at_once) out_of_memory(bytes, "it is too large for one buffer");
  {
    // Some drivers promise memory that they lack, and fail at the first use.
    std::unique_lock<std::mutex> lock(guard_);
    if (counts_.in_use + counts_.kept + capacity > device_.memory) {
      lock.unlock();
      trim();
      lock.lock();
    }
    if (counts_.in_use + counts_.kept + capacity > device_.memory) {
      lock.unlock();
      out_of_memory(bytes, "more than the device has");
    }
    counts_.in_use += capacity;
    ++counts_.created;
  }
  cl_int code = kSuccess;
  cl_mem memory = device_.api->clCreateBuffer(context_, flags, capacity, host, &code);
  if (code != kSuccess) {
    trim();
    memory = device_.api->clCreateBuffer(context_, flags, capacity, host, &code);
  }
  if (code != kSuccess) {
    {
      const std::lock_guard<std::mutex> lock(guard_);
      counts_.in_use -= capacity;
      --counts_.created;
    }
    out_of_memory(bytes, name_of(code));
  }
  return memory;
}

void Pool::release(const Buffer::Block& block) noexcept {
  if (forked()) return;  // the driver's locks may be held by a thread that this process lacks
  const std::shared_ptr<Shelf> shelf = block.shelf.lock();
  bool keep = false;
  {
    const std::lock_guard<std::mutex> lock(guard_);
    counts_.in_use -= block.capacity;
    keep = block.reusable && (shelf != nullptr || idle_ + block.capacity <= bound_);
    if (keep) counts_.kept += block.capacity;
    if (keep && shelf == nullptr) {
      idle_ += block.capacity;
      waiting_.emplace(block.capacity, block.memory);
    }
  }
  if (keep && shelf != nullptr) shelf->put(block.capacity, block.memory);
  if (!keep) device_.api->clReleaseMemObject(block.memory);
}

void Pool::give_back(Waiting waiting) {
  Waiting surplus;
  {
    const std::lock_guard<std::mutex> lock(guard_);
    for (const auto& [capacity, memory] : waiting) {
      if (idle_ + capacity <= bound_) {
        idle_ += capacity;
        waiting_.emplace(capacity, memory);
      } else {
        counts_.kept -= capacity;
        surplus.emplace(capacity, memory);
      }
    }
  }
  free_all(surplus);
}

void Pool::trim() {
  Waiting all;
  {
    const std::lock_guard<std::mutex> lock(guard_);
    all = std::exchange(waiting_, {});
    counts_.kept -= idle_;
    idle_ = 0;
  }
  free_all(all);
}

PoolCounts Pool::counts() const {
  const std::lock_guard<std::mutex> lock(guard_);
  return counts_;
}

void Pool::free_all(const Waiting& waiting) const noexcept {
  if (forked()) return;
  for (const auto& one : waiting) device_.api->clReleaseMemObject(one.second);
}

void Pool::out_of_memory(std::size_t bytes, const char* why) const {
  const PoolCounts now = counts();
  throw Error(Code::kFail,
              text("out of device memory: ", bytes, " bytes were asked for (", why, "); ",
                   now.in_use, " are in use and ", now.kept, " kept for reuse, ", device_.name,
                   " has ", device_.memory, ", and ", device_.most_at_once, " for one buffer"));
}

}  // namespace rx::opencl
