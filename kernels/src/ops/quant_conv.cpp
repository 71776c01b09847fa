// QuantConv: Y = act(conv(X, W) + bias + residual), filters of 2, 4 or 8 bits in blocks along the
// flattened (channels / group * kernel).
#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "cpu/conv.h"
#include "ops/block_weight.h"
#include "ops/checks.h"
#include "ops/device_conv.h"
#include "ops/on_device.h"
#include "ops/reals.h"
#include "ops/schema.h"
#include "ops/spatial.h"

namespace rx {
namespace {

enum Input : std::size_t { kX, kWeight, kScales, kZeros, kBias, kResidual };

using Numbers = std::vector<std::int64_t>;

// The stage without the image's sizes and the number of filters.
cpu::ConvShape stage_of(const Attributes& attributes) {
  cpu::ConvShape stage;
  const auto& kernel = attributes.get<Numbers>("kernel_shape");
  const std::size_t axes = kernel.size();
  set_geometry(stage, kernel, attributes.get_or("strides", Numbers(axes, 1)),
               attributes.get_or("pads", Numbers(2 * axes, 0)),
               attributes.get_or("dilations", Numbers(axes, 1)));
  stage.channels = bounded(attributes, "channels", 1, kMostOfSize);
  stage.group = attributes.has("group") ? bounded(attributes, "group", 1, stage.channels) : 1;
  require(stage.channels % stage.group == 0, "the attribute group: found ", stage.group,
          "; expected a divisor of the ", stage.channels, " channels");
  require(stage.group_in() <= kMostOfSize / stage.kernel[0] / stage.kernel[1], "a filter has ",
          stage.group_in(), " channels of ", stage.kernel[0], " by ", stage.kernel[1],
          " weights; expected at most ", kMostOfSize, " in all");
  return stage;
}

Shape outline(const Attributes& attributes, Span<const Shape> inputs) {
  const cpu::ConvShape stage = stage_of(attributes);
  const Shape& x = inputs[kX];
  const std::size_t rank = 2 + attributes.get<Numbers>("kernel_shape").size();
  require(x.size() == rank && agree(x[1], stage.channels), "X: found the shape ", text_of(x),
          "; expected ", rank, " sizes with ", stage.channels, " channels");
  return shape_after(stage, x, inputs[kWeight].empty() ? kUnknown : inputs[kWeight][0]);
}

class QuantConv final : public Operator {
 public:
  explicit QuantConv(const NodeInfo& node)
      : attributes_(node.attributes),
        activated_(node.attributes),
        stage_(stage_of(node.attributes)),
        weight_(node, kWeight, kScales, kZeros, -1, stage_.depth(), false),
        real_(type_at(node, kX)),
        data_(node, kWeight),
        scales_(node, kScales),
        zeros_(node, kZeros),
        bias_(node, kBias),
        residual_(node, kResidual) {
    stage_.out_channels = weight_.rows();
    require(stage_.out_channels % stage_.group == 0, "the packed weight: found ",
            stage_.out_channels, " filters; expected a multiple of the ", stage_.group, " groups");
  }

  std::vector<Shape> infer(Span<const Shape> inputs) const override;
  void pack() override {
    if (weight_.rows() != 0) packed_.emplace(stage_.group, weight_.view());
  }
  void run(Threads& threads, Span<const Tensor> inputs, Span<const Tensor> outputs) const override;
  void upload(opencl::Context& context) override;
  void enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
               Span<const opencl::DeviceTensor> outputs) const override;

 private:
  Attributes attributes_;
  Activated activated_;
  cpu::ConvShape stage_;
  BlockWeight weight_;
  Type real_;
  DeviceInput data_;
  DeviceInput scales_;
  DeviceInput zeros_;
  DeviceInput bias_;
  DeviceInput residual_;
  std::optional<cpu::PackedQuantFilter> packed_;
  std::unique_ptr<DeviceConv> device_;
};

std::vector<Shape> QuantConv::infer(Span<const Shape> inputs) const {
  const Shape y = outline(attributes_, inputs);
  if (bias_.present()) require_shape("bias", inputs[kBias], {weight_.rows()});
  if (residual_.present()) require_shape("residual", inputs[kResidual], y);
  return {y};
}

void QuantConv::run(Threads& threads, Span<const Tensor> inputs, Span<const Tensor> outputs) const {
  const Tensor& y = outputs[0];
  if (y.count() == 0) return;
  const Reals x(threads, inputs[kX]);
  const Reals bias(threads, item(inputs, kBias, {}));
  const Reals residual(threads, item(inputs, kResidual, {}));
  const RealsOut out(y);
  cpu::quant_conv(threads, sized(stage_, inputs[kX].shape), x.data(), *packed_, out.data(),
                  activated_.with(bias.data(), residual.data()));
  out.store(threads);
}

void QuantConv::upload(opencl::Context& context) {
  for (DeviceInput* one : {&data_, &scales_, &zeros_, &bias_, &residual_}) one->upload(context);
  DeviceConv::Format format;
  format.real = real_;
  format.bits = weight_.bits();
  format.block = weight_.block();
  format.zeros = zeros_.present();
  format.bias = bias_.present();
  format.residual = residual_.present();
  device_ = std::make_unique<DeviceConv>(context, stage_, format, activated_);
}

void QuantConv::enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
                        Span<const opencl::DeviceTensor> outputs) const {
  if (outputs[0].count() == 0) return;
  device_->enqueue(stream, sized(stage_, inputs[kX].shape),
                   {inputs[kX].buffer, data_.buffer(stream, inputs), scales_.buffer(stream, inputs),
                    zeros_.buffer(stream, inputs), bias_.buffer(stream, inputs),
                    residual_.buffer(stream, inputs), outputs[0].buffer});
}

}  // namespace

const Schema& quant_conv_schema() {
  static const Schema schema = {"QuantConv",
                                {{"X", Role::kReal},
                                 {"W", Role::kBytes, Need::kRequired, true},
                                 {"scales", Role::kReal, Need::kRequired, true},
                                 {"zero_points", Role::kBytes, Need::kOptional},
                                 {"bias", Role::kReal, Need::kOptional},
                                 {"residual", Role::kReal, Need::kOptional}},
                                {{"bits", AttributeKind::kInt, true},
                                 {"block_size", AttributeKind::kInt, true},
                                 {"channels", AttributeKind::kInt, true},
                                 {"kernel_shape", AttributeKind::kInts, true},
                                 {"strides", AttributeKind::kInts},
                                 {"pads", AttributeKind::kInts},
                                 {"dilations", AttributeKind::kInts},
                                 {"group", AttributeKind::kInt},
                                 {"activation", AttributeKind::kString},
                                 {"clip_min", AttributeKind::kFloat},
                                 {"clip_max", AttributeKind::kFloat}},
                                [](const NodeInfo& node) -> std::unique_ptr<Operator> {
                                  return std::make_unique<QuantConv>(node);
                                },
                                outline};
  return schema;
}

}  // namespace rx
