// QuantMatMul: Y = act(A * W^T + bias + residual), W (N, K) of 2, 4 or 8 bits in blocks along K.
#include <memory>
#include <optional>

#include "base/error.h"
#include "cpu/quant.h"
#include "ops/block_weight.h"
#include "ops/checks.h"
#include "ops/reals.h"
#include "ops/schema.h"

namespace rx {
namespace {

enum Input : std::size_t { kA, kWeight, kScales, kZeros, kBias, kResidual };

class QuantMatMul final : public Operator {
 public:
  explicit QuantMatMul(const NodeInfo& node)
      : k_(bounded(node.attributes, "K", 0, kMostOfSize)),
        n_(bounded(node.attributes, "N", 0, kMostOfSize)),
        attributes_(node.attributes),
        activated_(node.attributes),
        weight_(node, kWeight, kScales, kZeros, k_, false) {
    require(weight_.rows() == n_, "the packed weight: found ", weight_.rows(), " rows; expected ",
            n_, " as the attribute N says");
    has_bias_ = type_at(node, kBias) != Type::kNone;
    has_residual_ = type_at(node, kResidual) != Type::kNone;
  }

  std::vector<Shape> infer(Span<const Shape> inputs) const override;
  void pack() override { packed_.emplace(weight_.view()); }
  void run(Threads& threads, Span<const Tensor> inputs, Span<const Tensor> outputs) const override;
  void upload(opencl::Context& context) override;
  void enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
               Span<const opencl::DeviceTensor> outputs) const override;

 private:
  std::int64_t k_;
  std::int64_t n_;
  Attributes attributes_;
  Activated activated_;
  BlockWeight weight_;
  bool has_bias_ = false;
  bool has_residual_ = false;
  std::optional<cpu::PackedQuant> packed_;
};

Shape outline(const Attributes& attributes, Span<const Shape> inputs) {
  Shape y = inputs[kA];
  const auto k = attributes.get<std::int64_t>("K");
  require(!y.empty() && agree(y.back(), k), "A: found the shape ", text_of(y),
          "; expected its last size to be ", k, " as the attribute K says");
  y.back() = attributes.get<std::int64_t>("N");
  return y;
}

std::vector<Shape> QuantMatMul::infer(Span<const Shape> inputs) const {
  const Shape y = outline(attributes_, inputs);
  if (has_bias_) require_shape("bias", inputs[kBias], {n_});
  if (has_residual_) require_shape("residual", inputs[kResidual], y);
  return {y};
}

void QuantMatMul::run(Threads& threads, Span<const Tensor> inputs,
                      Span<const Tensor> outputs) const {
  const Tensor& y = outputs[0];
  if (y.count() == 0) return;
  const Reals a(threads, inputs[kA]);
  const Reals bias(threads, item(inputs, kBias, {}));
  const Reals residual(threads, item(inputs, kResidual, {}));
  const RealsOut out(y);
  cpu::quant_gemm(threads, y.count() / n_, a.data(), *packed_, out.data(),
                  activated_.with(bias.data(), residual.data()));
  out.store(threads);
}

void QuantMatMul::upload(opencl::Context&) {
  throw Error(Code::kNotImplemented, "QuantMatMul has no OpenCL kernels in this build");
}

void QuantMatMul::enqueue(opencl::Stream&, Span<const opencl::DeviceTensor>,
                          Span<const opencl::DeviceTensor>) const {
  throw Error(Code::kNotImplemented, "QuantMatMul has no OpenCL kernels in this build");
}

}  // namespace

const Schema& quant_matmul_schema() {
  static const Schema schema = {"QuantMatMul",
                                {{"A", Role::kReal},
                                 {"B", Role::kBytes, Need::kRequired, true},
                                 {"scales", Role::kReal, Need::kRequired, true},
                                 {"zero_points", Role::kBytes, Need::kOptional},
                                 {"bias", Role::kReal, Need::kOptional},
                                 {"residual", Role::kReal, Need::kOptional}},
                                {{"K", AttributeKind::kInt, true},
                                 {"N", AttributeKind::kInt, true},
                                 {"bits", AttributeKind::kInt, true},
                                 {"block_size", AttributeKind::kInt, true},
                                 {"activation", AttributeKind::kString},
                                 {"clip_min", AttributeKind::kFloat},
                                 {"clip_max", AttributeKind::kFloat}},
                                [](const NodeInfo& node) -> std::unique_ptr<Operator> {
                                  return std::make_unique<QuantMatMul>(node);
                                },
                                outline};
  return schema;
}

}  // namespace rx
