// QuantGather: rows of a table of 2, 4 or 8 bits in blocks, restored.
#include <cstring>
#include <memory>
#include <vector>

#include "base/error.h"
#include "cpu/quant.h"
#include "ops/block_weight.h"
#include "ops/checks.h"
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
        table_(node, kData, kScales, kZeros, columns_, true) {}

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
  BlockWeight table_;
  cpu::QuantView view_;
  std::vector<std::uint8_t> filled_;  // where rows end in a short block: a copy with whole blocks
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

void QuantGather::upload(opencl::Context&) {
  throw Error(Code::kNotImplemented, "QuantGather has no OpenCL kernels in this build");
}

void QuantGather::enqueue(opencl::Stream&, Span<const opencl::DeviceTensor>,
                          Span<const opencl::DeviceTensor>) const {
  throw Error(Code::kNotImplemented, "QuantGather has no OpenCL kernels in this build");
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
