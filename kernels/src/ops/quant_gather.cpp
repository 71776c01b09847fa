// QuantGather: rows of a table of 2, 4 or 8 bits in blocks, restored.
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "base/error.h"
#include "cpu/quant.h"
#include "ops/block_weight.h"
#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/reals.h"
#include "ops/schema.h"

namespace rx {
namespace {

enum Input : std::size_t { kData, kIndices, kScales, kZeros };

Shape outline(const Attributes& attributes, Span<const Shape> inputs) {
  Shape y = inputs[kIndices];
  y.push_back(attributes.get<std::int64_t>("columns"));
  return y;
}

class QuantGather final : public Operator {
 public:
  explicit QuantGather(const NodeInfo& node)
      : attributes_(node.attributes),
        columns_(bounded(node.attributes, "columns", 0, kMostOfSize)),
        index_(type_at(node, kIndices)),
        table_(node, kData, kScales, kZeros, -1, columns_, true),
        scales_(node, kScales),
        zeros_(node, kZeros) {}

  std::vector<Shape> infer(Span<const Shape> inputs) const override {
    return {outline(attributes_, inputs)};
  }

  void pack() override;
  void run(Threads& threads, Span<const Tensor> inputs, Span<const Tensor> outputs) const override;
  void upload(opencl::Context& context) override;
  void enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
               Span<const opencl::DeviceTensor> outputs) const override;

 private:
  Attributes attributes_;
  std::int64_t columns_;
  Type index_;
  BlockWeight table_;
  DeviceInput scales_;
  DeviceInput zeros_;
  cpu::QuantView view_;
  std::vector<std::uint8_t> filled_;  // where rows end in a short block: a copy with whole blocks
  opencl::DeviceTensor data_;
  std::shared_ptr<const opencl::Variant> variant_;
};

void QuantGather::pack() {
  view_ = table_.view();
  const auto row = static_cast<std::size_t>(table_.data().shape[1]);
  const auto whole = static_cast<std::size_t>(view_.blocks() * view_.block_bytes());
  const auto rows = static_cast<std::size_t>(view_.rows);
  if (row == whole) return;
  filled_.assign(rows * whole, 0);
  for (std::size_t i = 0; i < rows && row != 0; ++i)
    std::memcpy(filled_.data() + i * whole, view_.data + i * row, row);
  view_.data = filled_.data();
}

void QuantGather::run(Threads& threads, Span<const Tensor> inputs,
                      Span<const Tensor> outputs) const {
  const RealsOut out(outputs[0]);
  const Tensor& indices = inputs[kIndices];
  if (indices.type == Type::kInt32)
    cpu::quant_gather(threads, view_, indices.as<std::int32_t>(), indices.count(), out.data());
  else
    cpu::quant_gather(threads, view_, indices.as<std::int64_t>(), indices.count(), out.data());
  out.store(threads);
}

void QuantGather::upload(opencl::Context& context) {
  pack();
  // Rows with whole blocks, which is what the kernel reads.
  const Tensor whole = {Type::kUint8,
                        {view_.rows, view_.blocks() * view_.block_bytes()},
                        const_cast<std::uint8_t*>(view_.data)};
  if (whole.count() != 0) data_ = context.constant(whole);
  scales_.upload(context);
  zeros_.upload(context);
  variant_ = context.family("quant_gather")
                 .variant({{"BITS", table_.bits()},
                           {"ZEROS", zeros_.present()},
                           {"INDEX_BITS", bits_of(index_)},
                           {"REAL_BITS", bits_of(table_.scales().type)},
                           {"SCALE_BITS", bits_of(table_.scales().type)}});
}

void QuantGather::enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
                          Span<const opencl::DeviceTensor> outputs) const {
  const opencl::DeviceTensor& y = outputs[0];
  const std::int32_t count = int_of("the number of indices", y.count() / columns_);
  const std::int32_t rows = int_of("the number of rows", table_.rows());
  const auto plan = variant_->plan({count, rows, columns_, table_.block()});
  // The least place of an index that is out of range; brought back when all is done.
  const auto fault = std::make_shared<std::int32_t>(std::numeric_limits<std::int32_t>::max());
  const opencl::DeviceTensor told = stream.output({Type::kInt32, {1}, fault.get()});
  stream.write(told.buffer, fault.get(), sizeof(*fault));
  stream.then([fault, rows] {
    require(*fault == std::numeric_limits<std::int32_t>::max(), "index ", *fault,
            " lies outside the ", rows, " rows of the weight");
  });
  stream.launch(*plan, "quant_gather", {2.0 * static_cast<double>(y.bytes()), 0}, count, rows,
                static_cast<std::int32_t>(columns_), static_cast<std::int32_t>(table_.block()),
                data_, inputs[kIndices], scales_.buffer(stream, inputs),
                zeros_.buffer(stream, inputs), y, told);
}

}  // namespace

const Schema& quant_gather_schema() {
  static const Schema schema = {"QuantGather",
                                {{"data", Role::kBytes, Need::kRequired, true},
                                 {"indices", Role::kIndices},
                                 {"scales", Role::kReal, Need::kRequired, true},
                                 {"zero_points", Role::kBytes, Need::kOptional}},
                                {{"columns", AttributeKind::kInt, true},
                                 {"bits", AttributeKind::kInt, true},
                                 {"block_size", AttributeKind::kInt, true}},
                                [](const NodeInfo& node) -> std::unique_ptr<Operator> {
                                  return std::make_unique<QuantGather>(node);
                                },
                                outline};
  return schema;
}

}  // namespace rx
