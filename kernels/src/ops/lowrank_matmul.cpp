// LowRankMatMul: Y = act((A * P) * Q + bias + residual), P (K, R), Q (R, N).
#include <memory>
#include <optional>

#include "base/error.h"
#include "cpu/gemm.h"
#include "ops/checks.h"
#include "ops/reals.h"
#include "ops/schema.h"

namespace rx {
namespace {

enum Input : std::size_t { kA, kP, kQ, kBias, kResidual };

Shape outline(const Attributes&, Span<const Shape> inputs) {
  Shape y = inputs[kA];
  const Shape& p = inputs[kP];
  const Shape& q = inputs[kQ];
  require(p.size() == 2 && q.size() == 2 && agree(p[1], q[0]), "P and Q: found the shapes ",
          text_of(p), " and ", text_of(q), "; expected (K, R) and (R, N)");
  require(!y.empty() && agree(y.back(), p[0]), "A: found the shape ", text_of(y),
          "; expected its last size to be ", p[0], " as P has it");
  y.back() = q[1];
  return y;
}

class LowRankMatMul final : public Operator {
 public:
  explicit LowRankMatMul(const NodeInfo& node)
      : activated_(node.attributes), p_(constant_at(node, kP)), q_(constant_at(node, kQ)) {
    require(p_.shape.size() == 2 && q_.shape.size() == 2 && p_.shape[1] == q_.shape[0],
            "P and Q: found the shapes ", text_of(p_.shape), " and ", text_of(q_.shape),
            "; expected (K, R) and (R, N)");
    for (const std::int64_t size : {p_.shape[0], p_.shape[1], q_.shape[1]})
      require(size <= kMostOfSize, "P or Q has a size of ", size, "; expected at most ",
              kMostOfSize);
    has_bias_ = type_at(node, kBias) != Type::kNone;
    has_residual_ = type_at(node, kResidual) != Type::kNone;
  }

  std::vector<Shape> infer(Span<const Shape> inputs) const override;
  void pack() override;
  void run(Threads& threads, Span<const Tensor> inputs, Span<const Tensor> outputs) const override;
  void upload(opencl::Context& context) override;
  void enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
               Span<const opencl::DeviceTensor> outputs) const override;

 private:
  std::int64_t n() const { return q_.shape[1]; }

  Activated activated_;
  Tensor p_;
  Tensor q_;
  bool has_bias_ = false;
  bool has_residual_ = false;
  std::optional<cpu::PackedMatrix> packed_p_;
  std::optional<cpu::PackedMatrix> packed_q_;
};

std::vector<Shape> LowRankMatMul::infer(Span<const Shape> inputs) const {
  const Shape y = outline({}, inputs);
  if (has_bias_) require_shape("bias", inputs[kBias], {n()});
  if (has_residual_) require_shape("residual", inputs[kResidual], y);
  return {y};
}

void LowRankMatMul::pack() {
  OneThread thread;
  const Reals p(thread, p_);
  const Reals q(thread, q_);
  packed_p_.emplace(p_.shape[0], p_.shape[1], p.data());
  packed_q_.emplace(q_.shape[0], q_.shape[1], q.data());
}

void LowRankMatMul::run(Threads& threads, Span<const Tensor> inputs,
                        Span<const Tensor> outputs) const {
  const Tensor& y = outputs[0];
  if (y.count() == 0) return;
  const Reals a(threads, inputs[kA]);
  const Reals bias(threads, item(inputs, kBias, {}));
  const Reals residual(threads, item(inputs, kResidual, {}));
  const RealsOut out(y);
  cpu::low_rank(threads, y.count() / n(), a.data(), *packed_p_, *packed_q_, out.data(),
                activated_.with(bias.data(), residual.data()));
  out.store(threads);
}

void LowRankMatMul::upload(opencl::Context&) {
  throw Error(Code::kNotImplemented, "LowRankMatMul has no OpenCL kernels in this build");
}

void LowRankMatMul::enqueue(opencl::Stream&, Span<const opencl::DeviceTensor>,
                            Span<const opencl::DeviceTensor>) const {
  throw Error(Code::kNotImplemented, "LowRankMatMul has no OpenCL kernels in this build");
}

}  // namespace

const Schema& lowrank_matmul_schema() {
  static const Schema schema = {"LowRankMatMul",
                                {{"A", Role::kReal},
                                 {"P", Role::kReal, Need::kRequired, true},
                                 {"Q", Role::kReal, Need::kRequired, true},
                                 {"bias", Role::kReal, Need::kOptional},
                                 {"residual", Role::kReal, Need::kOptional}},
                                {{"activation", AttributeKind::kString},
                                 {"clip_min", AttributeKind::kFloat},
                                 {"clip_max", AttributeKind::kFloat}},
                                [](const NodeInfo& node) -> std::unique_ptr<Operator> {
                                  return std::make_unique<LowRankMatMul>(node);
                                },
                                outline};
  return schema;
}

}  // namespace rx
