// LowRankMatMul: Y = act((A * P) * Q + bias + residual), P (K, R), Q (R, N).
#include <memory>
#include <optional>

#include "base/error.h"
#include "cpu/gemm.h"
#include "ops/checks.h"
#include "ops/on_device.h"
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
      : activated_(node.attributes),
        p_(constant_at(node, kP)),
        q_(constant_at(node, kQ)),
        device_p_(node, kP),
        device_q_(node, kQ),
        bias_(node, kBias),
        residual_(node, kResidual) {
    require(p_.shape.size() == 2 && q_.shape.size() == 2 && p_.shape[1] == q_.shape[0],
            "P and Q: found the shapes ", text_of(p_.shape), " and ", text_of(q_.shape),
            "; expected (K, R) and (R, N)");
    for (const std::int64_t size : {p_.shape[0], p_.shape[1], q_.shape[1]})
      require(size <= kMostOfSize, "P or Q has a size of ", size, "; expected at most ",
              kMostOfSize);
  }

  std::vector<Shape> infer(Span<const Shape> inputs) const override;
  void pack() override;
  void run(Threads& threads, Span<const Tensor> inputs, Span<const Tensor> outputs) const override;
  void upload(opencl::Context& context) override;
  void enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
               Span<const opencl::DeviceTensor> outputs) const override;

 private:
  std::int64_t k() const { return p_.shape[0]; }
  std::int64_t r() const { return p_.shape[1]; }
  std::int64_t n() const { return q_.shape[1]; }
  bool fuses(const opencl::Plan& plan, const opencl::Context& context, std::int64_t rows) const;
  void enqueue_gemm(opencl::Stream& stream, const opencl::Variant& variant, std::int64_t rows,
                    std::int64_t columns, std::int64_t depth, const opencl::Buffer& a,
                    const opencl::Buffer& b, const opencl::Buffer& bias,
                    const opencl::Buffer& residual, const opencl::Buffer& y) const;

  Activated activated_;
  Tensor p_;
  Tensor q_;
  DeviceInput device_p_;
  DeviceInput device_q_;
  DeviceInput bias_;
  DeviceInput residual_;
  std::optional<cpu::PackedMatrix> packed_p_;
  std::optional<cpu::PackedMatrix> packed_q_;
  std::shared_ptr<const opencl::Variant> fused_;   // one launch
  std::shared_ptr<const opencl::Variant> first_;   // A * P
  std::shared_ptr<const opencl::Variant> second_;  // and what follows
};

std::vector<Shape> LowRankMatMul::infer(Span<const Shape> inputs) const {
  const Shape y = outline({}, inputs);
  if (bias_.present()) require_shape("bias", inputs[kBias], {n()});
  if (residual_.present()) require_shape("residual", inputs[kResidual], y);
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

// The fused kernel saves a launch and the way of the middle through memory; two products keep more
// of the device busy. By the model of gfx803 it wins where memory is the limit (small R), and where
// its loss, about a fifth of the time, is less than a launch costs. Few rows make few groups.
constexpr std::int64_t kMemoryBound = 32;  // greatest R
constexpr double kShort = 3e8;             // multiplications: 100 us of gfx803
constexpr double kTiny = 4e6;              // one group has done these soon

bool LowRankMatMul::fuses(const opencl::Plan& plan, const opencl::Context& context,
                          std::int64_t rows) const {
  if (r() > plan.value("RMAX")) return false;
  const std::int64_t groups = (rows + plan.value("MWG") - 1) / plan.value("MWG");
  const double work =
      static_cast<double>(rows) * static_cast<double>(r()) * static_cast<double>(k() + n());
  if (work <= kTiny) return true;
  return 2 * groups >= static_cast<std::int64_t>(context.device().units) &&
         (r() <= kMemoryBound || work <= kShort);
}

void LowRankMatMul::upload(opencl::Context& context) {
  for (DeviceInput* one : {&device_p_, &device_q_, &bias_, &residual_}) one->upload(context);
  const std::int64_t bits = bits_of(p_.type);
  const opencl::Values options = {{"REAL_BITS", bits},
                                  {"ACT", static_cast<std::int64_t>(activated_.activation)},
                                  {"BIAS", bias_.present()},
                                  {"RESIDUAL", residual_.present()}};
  fused_ = context.family("lowrank").variant(options);
  first_ = context.family("gemm").variant({{"REAL_BITS", bits}});
  second_ = context.family("gemm").variant(options);
}

void LowRankMatMul::enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
                            Span<const opencl::DeviceTensor> outputs) const {
  const opencl::DeviceTensor& y = outputs[0];
  if (y.count() == 0) return;
  const std::int64_t m = y.count() / n();
  const bool empty = k() == 0 || r() == 0;  // the product of P and Q is 0, and neither has a buffer
  const auto size = [](const char* name, std::int64_t value) { return int_of(name, value); };
  const opencl::Buffer& unused = stream.context().unused();
  const opencl::Buffer& a = empty ? unused : inputs[kA].buffer;
  const opencl::Buffer& p = empty ? unused : device_p_.buffer(stream, inputs);
  const opencl::Buffer& q = empty ? unused : device_q_.buffer(stream, inputs);
  const opencl::Buffer& bias = bias_.buffer(stream, inputs);
  const opencl::Buffer& residual = residual_.buffer(stream, inputs);
  const std::int64_t inner = empty ? 0 : k(), rank = empty ? 0 : r();
  const std::int32_t rows = size("the number of rows of A", m);
  const auto plan = fused_->plan({m, inner, rank, n()});
  if (empty || fuses(*plan, stream.context(), m)) {
    const double values = static_cast<double>(m) * static_cast<double>(inner + n()) +
                          static_cast<double>(rank) * static_cast<double>(inner + n());
    const double flops = 2.0 * static_cast<double>(m * rank) * static_cast<double>(inner + n());
    stream.launch(*plan, "lowrank", {values * static_cast<double>(size_of(y.type)), flops}, rows,
                  size("K", inner), size("R", rank), size("N", n()), activated_.low,
                  activated_.high, a, p, q, bias, residual, y);
    return;
  }
  const opencl::DeviceTensor middle = stream.temporary(y.type, {m, r()});
  enqueue_gemm(stream, *first_, m, r(), k(), a, p, unused, unused, middle.buffer);
  enqueue_gemm(stream, *second_, m, n(), r(), middle.buffer, q, bias, residual, y.buffer);
}

void LowRankMatMul::enqueue_gemm(opencl::Stream& stream, const opencl::Variant& variant,
                                 std::int64_t rows, std::int64_t columns, std::int64_t depth,
                                 const opencl::Buffer& a, const opencl::Buffer& b,
                                 const opencl::Buffer& bias, const opencl::Buffer& residual,
                                 const opencl::Buffer& y) const {
  const auto plan = variant.plan({rows, columns, depth, 1});
  const auto m = int_of("M", rows), n = int_of("N", columns), k = int_of("K", depth);
  const std::int64_t split = plan->value("SPLIT"), none = 0;
  const opencl::Buffer work = split > 1
                                  ? stream.temporary(Type::kFloat, {split, rows, columns}).buffer
                                  : stream.context().unused();
  const double values =
      static_cast<double>(m) * k + static_cast<double>(k) * n + static_cast<double>(m) * n;
  stream.launch(*plan, "gemm", {values * static_cast<double>(size_of(p_.type)), 2.0 * m * n * k}, m,
                n, k, std::int32_t{1}, none, none, activated_.low, activated_.high, a, b, bias,
                residual, y, work);
  if (plan->needs("gemm_sum"))
    stream.launch(*plan, "gemm_sum", {4.0 * m * n * static_cast<double>(split), 0}, m, n,
                  std::int32_t{1}, activated_.low, activated_.high, work, bias, residual, y);
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
