#include "ops/block_weight.h"

#include "base/error.h"
#include "cpu/half.h"
#include "ops/checks.h"

namespace rx {

BlockWeight::BlockWeight(const NodeInfo& node, std::size_t data, std::size_t scales,
                         std::size_t zeros, std::int64_t rows, std::int64_t columns, bool flat)
    : bits_(static_cast<int>(node.attributes.get<std::int64_t>("bits"))),
      block_(bounded(node.attributes, "block_size", 8, kMostOfSize)),
      columns_(columns),
      data_(constant_at(node, data)),
      scales_(constant_at(node, scales)),
      zeros_(constant_at(node, zeros)) {
  const auto bits = node.attributes.get<std::int64_t>("bits");
  require(bits == 2 || bits == 4 || bits == 8, "the attribute bits: found ", bits,
          "; expected 2, 4 or 8");
  require(block_ % 8 == 0, "the attribute block_size: found ", block_,
          "; expected a multiple of 8");
  require(type_at(node, zeros) == Type::kNone || zeros_.present(),
          "the input zero_points must be a constant initializer");
  check_shapes(rows, flat);
  if (scales_.type == Type::kHalf) {
    converted_.resize(static_cast<std::size_t>(scales_.count()));
    cpu::to_float(scales_.as<std::uint16_t>(), converted_.data(), scales_.count());
  }
}

void BlockWeight::check_shapes(std::int64_t rows, bool flat) const {
  const std::size_t rank = flat ? 2 : 3;
  require(data_.shape.size() == rank, "the packed weight: found the shape ", text_of(data_.shape),
          "; expected ", rank, " sizes");
  if (rows < 0) rows = data_.shape[0];
  const std::int64_t bytes = block_ * bits_ / 8;
  // An embedding is packed by row, so that a short last block is not filled up.
  const std::int64_t row = (columns_ * bits_ + 7) / 8;
  if (flat)
    require_shape("the packed weight", data_.shape, {rows, row});
  else
    require_shape("the packed weight", data_.shape, {rows, blocks(), bytes});
  require_shape("scales", scales_.shape, {data_.shape[0], blocks()});
  if (zeros_.present())
    require_shape("zero_points", zeros_.shape, {data_.shape[0], (blocks() * bits_ + 7) / 8});
}

cpu::QuantView BlockWeight::view() const {
  cpu::QuantView view;
  view.bits = bits_;
  view.rows = rows();
  view.columns = columns_;
  view.block = block_;
  view.data = data_.as<std::uint8_t>();
  view.scales = converted_.empty() ? scales_.as<float>() : converted_.data();
  view.zeros = zeros_.as<std::uint8_t>();
  return view;
}

}  // namespace rx
