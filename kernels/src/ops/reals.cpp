#include "ops/reals.h"

#include <algorithm>
#include <cstdint>

#include "cpu/half.h"

namespace rx {
namespace {

constexpr std::int64_t kPart = 1 << 15;  // elements that one unit of work converts

// Calls part(first, count) for parts of [0, total).
template <typename Part>
void in_parts(Threads& threads, std::int64_t total, const Part& part) {
  threads.each(static_cast<std::size_t>((total + kPart - 1) / kPart), [&](std::size_t index) {
    const std::int64_t first = static_cast<std::int64_t>(index) * kPart;
    part(first, std::min(kPart, total - first));
  });
}

}  // namespace

Reals::Reals(Threads& threads, const Tensor& tensor) {
  if (tensor.type == Type::kFloat) data_ = tensor.as<float>();
  if (tensor.type != Type::kHalf) return;
  copy_ = cpu::Buffer<float>(static_cast<std::size_t>(tensor.count()));
  data_ = copy_.data();
  const auto* halves = tensor.as<std::uint16_t>();
  in_parts(threads, tensor.count(), [&](std::int64_t first, std::int64_t count) {
    cpu::to_float(halves + first, copy_.data() + first, count);
  });
}

RealsOut::RealsOut(const Tensor& tensor) : tensor_(tensor) {
  if (tensor.type == Type::kHalf)
    copy_ = cpu::Buffer<float>(static_cast<std::size_t>(tensor.count()));
  data_ = tensor.type == Type::kHalf ? copy_.data() : tensor.as<float>();
}

void RealsOut::store(Threads& threads) const {
  if (tensor_.type != Type::kHalf) return;
  auto* halves = tensor_.as<std::uint16_t>();
  in_parts(threads, tensor_.count(), [&](std::int64_t first, std::int64_t count) {
    cpu::to_half(copy_.data() + first, halves + first, count);
  });
}

}  // namespace rx
