#include "region/memory_plan.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace rx::region {
namespace {

std::size_t rounded(std::size_t bytes) {
  require(bytes <= static_cast<std::size_t>(-1) / 4, "a value of ", bytes, " bytes is too large");
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

bool meet(const Lifetime& a, const Lifetime& b) {
  return a.first <= b.last && b.first <= a.last;
}

struct Piece {
  std::size_t begin;
  std::size_t end;
};

// The start of the tightest gap of `bytes` between pieces that are sorted by `begin`; behind all
// of them where none is wide enough.
std::size_t gap(const std::vector<Piece>& taken, std::size_t bytes) {
  std::size_t end = 0;
  std::size_t found = 0;
  std::size_t least = static_cast<std::size_t>(-1);
  for (const Piece& piece : taken) {
    if (piece.begin >= end + bytes && piece.begin - end < least) {
      found = end;
      least = piece.begin - end;
    }
    end = std::max(end, piece.end);
  }
  return least == static_cast<std::size_t>(-1) ? end : found;
}

}  // namespace

MemoryPlan plan_memory(Span<const Lifetime> values) {
  MemoryPlan plan;
  plan.offsets.assign(values.size(), 0);
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a].bytes > values[b].bytes; });
  std::vector<std::size_t> placed;  // sorted by offset
  for (const std::size_t index : order) {
    const std::size_t bytes = rounded(values[index].bytes);
    if (bytes == 0) continue;
    std::vector<Piece> taken;
    for (const std::size_t other : placed)
      if (meet(values[index], values[other]))
        taken.push_back({plan.offsets[other], plan.offsets[other] + rounded(values[other].bytes)});
    const std::size_t offset = gap(taken, bytes);
    plan.offsets[index] = offset;
    plan.bytes = std::max(plan.bytes, offset + bytes);
    const auto behind = std::find_if(placed.begin(), placed.end(), [&](std::size_t other) {
      return plan.offsets[other] > offset;
    });
    placed.insert(behind, index);
  }
  return plan;
}

}  // namespace rx::region
