// QuantMatMul: Y = act(A * W^T + bias + residual), W (N, K) of 2, 4 or 8 bits in blocks along K.
#include <memory>
#include <optional>

#include "base/error.h"
#include "cpu/quant.h"
#include "ops/block_weight.h"
#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/reals.h"
#include "ops/schema.h"

namespace rx {
namespace {

enum Input : std::size_t { kA, kWeight, kScales, kZeros, kBias, kResidual };

// Up to so many rows of A each weight is read once by a kernel that keeps A in local memory.
constexpr std::int64_t kFewRows = 8;

class QuantMatMul final : public Operator {
 public:
  explicit QuantMatMul(const NodeInfo& node)
      : k_(bounded(node.attributes, "K", 0, kMostOfSize)),
        n_(bounded(node.attributes, "N", 0, kMostOfSize)),
        attributes_(node.attributes),
        activated_(node.attributes),
        real_(type_at(node, kA)),
        weight_(node, kWeight, kScales, kZeros, n_, k_, false),
        data_(node, kWeight),
        scales_(node, kScales),
        zeros_(node, kZeros),
        bias_(node, kBias),
        residual_(node, kResidual) {}

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
  Type real_;
  BlockWeight weight_;
  DeviceInput data_;
  DeviceInput scales_;
  DeviceInput zeros_;
  DeviceInput bias_;
  DeviceInput residual_;
  std::optional<cpu::PackedQuant> packed_;
  std::shared_ptr<const opencl::Variant> few_rows_;
  std::shared_ptr<const opencl::Variant> many_rows_;
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
  if (bias_.present()) require_shape("bias", inputs[kBias], {n_});
  if (residual_.present()) require_shape("residual", inputs[kResidual], y);
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

void QuantMatMul::upload(opencl::Context& context) {
  for (DeviceInput* one : {&data_, &scales_, &zeros_, &bias_, &residual_}) one->upload(context);
  const opencl::Values options = {{"BITS", weight_.bits()},
                                  {"ZEROS", zeros_.present()},
                                  {"REAL_BITS", bits_of(real_)},
                                  {"SCALE_BITS", bits_of(weight_.scales().type)},
                                  {"ACT", static_cast<std::int64_t>(activated_.activation)},
                                  {"BIAS", bias_.present()},
                                  {"RESIDUAL", residual_.present()}};
  few_rows_ = context.family("quant_gemv").variant(options);
  many_rows_ = context.family("quant_gemm").variant(options);
}

void QuantMatMul::enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
                          Span<const opencl::DeviceTensor> outputs) const {
  const opencl::DeviceTensor& y = outputs[0];
  const std::int32_t m = int_of("the number of rows of A", y.count() / n_);
  const bool few = m <= kFewRows;
  const auto plan = (few ? few_rows_ : many_rows_)->plan({m, n_, k_, weight_.block()});
  const auto n = static_cast<std::int32_t>(n_);
  const auto k = static_cast<std::int32_t>(k_);
  const opencl::Buffer& bias = bias_.buffer(stream, inputs);
  const opencl::Buffer& residual = residual_.buffer(stream, inputs);
  const std::int64_t split = plan->value("SPLIT");
  const opencl::Buffer parts =
      split > 1 ? stream.temporary(Type::kFloat, {split, m, n}).buffer : stream.context().unused();
  const auto bytes = static_cast<double>(inputs[kA].bytes() + y.bytes() + weight_.data().bytes() +
                                         weight_.scales().bytes());
  stream.launch(*plan, few ? "quant_gemv" : "quant_gemm", {bytes, 2.0 * m * n * k}, m, n, k,
                static_cast<std::int32_t>(weight_.block()), activated_.low, activated_.high,
                inputs[kA], data_.buffer(stream, inputs), scales_.buffer(stream, inputs),
                zeros_.buffer(stream, inputs), bias, residual, y, parts);
  if (split > 1)
    stream.launch(
        *plan, few ? "quant_gemv_sum" : "quant_gemm_sum",
        {4.0 * static_cast<double>(split) * m * n, 1.0 * static_cast<double>(split) * m * n}, m, n,
        activated_.low, activated_.high, parts, bias, residual, y);
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
