// ConvChain: convolutions one after another; a bias and an activation follow the last.
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "cpu/conv.h"
#include "ops/checks.h"
#include "ops/device_conv.h"
#include "ops/on_device.h"
#include "ops/reals.h"
#include "ops/schema.h"
#include "ops/spatial.h"

namespace rx {
namespace {

enum Input : std::size_t { kX, kBias, kFirstWeight };

constexpr std::int64_t kMostStages = 16;

using Numbers = std::vector<std::int64_t>;

// The flat lists of the attributes, a part for each stage.
class Lists {
 public:
  explicit Lists(const Attributes& attributes)
      : stages_(static_cast<std::size_t>(bounded(attributes, "stages", 1, kMostStages))),
        kernels_(list(attributes, "kernel_shapes", 2)),
        strides_(list(attributes, "strides", 2)),
        pads_(list(attributes, "pads", 4)),
        dilations_(list(attributes, "dilations", 2)),
        groups_(list(attributes, "groups", 1)) {}

  std::size_t stages() const { return stages_; }

  // The geometry of a stage, and its channels from the shape of its weight.
  cpu::ConvShape stage(std::size_t index, const Shape& weight) const {
    cpu::ConvShape found;
    set_geometry(found, {kernels_.data() + 2 * index, 2}, {strides_.data() + 2 * index, 2},
                 {pads_.data() + 4 * index, 4}, {dilations_.data() + 2 * index, 2});
    const std::int64_t group = groups_[index];
    require(group >= 1 && group <= kMostOfSize, "the attribute groups: found ", group,
            "; expected 1 or more");
    require(weight.size() == 4, "the weight of stage ", index, ": found the shape ",
            text_of(weight), "; expected 4 sizes");
    require(agree(weight[2], found.kernel[0]) && agree(weight[3], found.kernel[1]),
            "the weight of stage ", index, ": found the shape ", text_of(weight),
            "; expected a kernel of ", found.kernel[0], " by ", found.kernel[1]);
    found.group = group;
    if (weight[0] < 0 || weight[1] < 0) return found;
    require(weight[1] >= 1 && weight[1] <= kMostOfSize / group && weight[0] >= 1 &&
                weight[0] <= kMostOfSize && weight[0] % group == 0,
            "the weight of stage ", index, ": found the shape ", text_of(weight),
            "; expected at least one channel, and a multiple of ", group, " filters");
    found.channels = weight[1] * group;
    found.out_channels = weight[0];
    return found;
  }

 private:
  Numbers list(const Attributes& attributes, const char* name, std::size_t each) const {
    const auto& found = attributes.get<Numbers>(name);
    require(found.size() == each * stages_, "the attribute ", name, ": found ", found.size(),
            " numbers; expected ", each, " for each of the ", stages_, " stages");
    return found;
  }

  std::size_t stages_;
  Numbers kernels_;
  Numbers strides_;
  Numbers pads_;
  Numbers dilations_;
  Numbers groups_;
};

// The stages of a node whose weights have these shapes; channels of neighbours fit.
std::vector<cpu::ConvShape> stages_of(const Attributes& attributes, Span<const Shape> weights) {
  const Lists lists(attributes);
  require(weights.size() == lists.stages(), "found ", weights.size(), " weights; expected one for ",
          "each of the ", lists.stages(), " stages");
  std::vector<cpu::ConvShape> found;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    found.push_back(lists.stage(i, weights[i]));
    require(i == 0 || found[i].channels == found[i - 1].out_channels, "stage ", i, " reads ",
            found[i].channels, " channels; stage ", i - 1, " writes ",
            i == 0 ? 0 : found[i - 1].out_channels);
  }
  return found;
}

// Shapes in front of each stage, and behind the last.
std::vector<Shape> shapes_through(const std::vector<cpu::ConvShape>& stages, const Shape& x) {
  require((x.size() == 3 || x.size() == 4) && agree(x[1], stages[0].channels),
          "X: found the shape ", text_of(x), "; expected 3 or 4 sizes with ", stages[0].channels,
          " channels");
  std::vector<Shape> shapes = {x};
  for (const cpu::ConvShape& stage : stages) {
    require(x.size() == 4 || (stage.kernel[0] == 1 && stage.pads[0] == 0 && stage.pads[2] == 0 &&
                              stage.stride[0] == 1),
            "X: found the shape ", text_of(x), "; expected 4 sizes, because a stage has a height");
    shapes.push_back(shape_after(stage, shapes.back(), stage.out_channels));
  }
  return shapes;
}

Shape outline(const Attributes& attributes, Span<const Shape> inputs) {
  const Span<const Shape> weights(inputs.data() + kFirstWeight, inputs.size() - kFirstWeight);
  for (const Shape& weight : weights)
    for (const std::int64_t size : weight)
      if (size < 0) return Shape(inputs[kX].size(), kUnknown);
  return shapes_through(stages_of(attributes, weights), inputs[kX]).back();
}

class ConvChain final : public Operator {
 public:
  explicit ConvChain(const NodeInfo& node)
      : activated_(node.attributes), real_(type_at(node, kX)), bias_(node, kBias) {
    std::vector<Shape> shapes;
    for (std::size_t i = kFirstWeight; i < node.types.size(); ++i) {
      weights_.push_back(constant_at(node, i));
      shapes.push_back(weights_.back().shape);
      device_weights_.emplace_back(node, i);
    }
    stages_ = stages_of(node.attributes, shapes);
  }

  std::vector<Shape> infer(Span<const Shape> inputs) const override {
    if (bias_.present()) require_shape("bias", inputs[kBias], {stages_.back().out_channels});
    return {shapes_through(stages_, inputs[kX]).back()};
  }

  void pack() override;
  void run(Threads& threads, Span<const Tensor> inputs, Span<const Tensor> outputs) const override;
  void upload(opencl::Context& context) override;
  void enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
               Span<const opencl::DeviceTensor> outputs) const override;

 private:
  Activated activated_;
  std::vector<Tensor> weights_;
  std::vector<cpu::ConvShape> stages_;  // without the sizes of an image
  Type real_;
  DeviceInput bias_;
  std::vector<DeviceInput> device_weights_;
  std::vector<std::unique_ptr<cpu::PackedFilter>> packed_;
  std::vector<std::unique_ptr<DeviceConv>> device_stages_;
};

void ConvChain::pack() {
  OneThread thread;
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const Reals weight(thread, weights_[i]);
    packed_.push_back(std::make_unique<cpu::PackedFilter>(stages_[i].out_channels, stages_[i].group,
                                                          stages_[i].depth(), weight.data()));
  }
}

void ConvChain::run(Threads& threads, Span<const Tensor> inputs, Span<const Tensor> outputs) const {
  if (outputs[0].count() == 0) return;
  const std::vector<Shape> shapes = shapes_through(stages_, inputs[kX].shape);
  std::vector<cpu::ConvShape> stages;
  std::vector<const cpu::PackedFilter*> filters;
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    stages.push_back(sized(stages_[i], shapes[i]));
    filters.push_back(packed_[i].get());
  }
  const Reals x(threads, inputs[kX]);
  const Reals bias(threads, inputs[kBias]);
  const RealsOut out(outputs[0]);
  cpu::conv_chain(threads, stages, x.data(), filters, out.data(),
                  activated_.with(bias.data(), nullptr));
  out.store(threads);
}

void ConvChain::upload(opencl::Context& context) {
  bias_.upload(context);
  for (DeviceInput& one : device_weights_) one.upload(context);
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const bool last = i + 1 == stages_.size();
    DeviceConv::Format format;
    format.real = real_;
    format.bits = bits_of(real_);
    format.bias = last && bias_.present();
    device_stages_.push_back(std::make_unique<DeviceConv>(context, stages_[i], format,
                                                          last ? activated_ : Activated({})));
  }
}

void ConvChain::enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
                        Span<const opencl::DeviceTensor> outputs) const {
  if (outputs[0].count() == 0) return;
  const std::vector<Shape> shapes = shapes_through(stages_, inputs[kX].shape);
  const opencl::Buffer& unused = stream.context().unused();
  const opencl::Buffer& bias = bias_.buffer(stream, inputs);
  opencl::DeviceTensor x = inputs[kX];
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const bool last = i + 1 == stages_.size();
    const opencl::DeviceTensor y = last ? outputs[0] : stream.temporary(real_, shapes[i + 1]);
    device_stages_[i]->enqueue(stream, sized(stages_[i], shapes[i]),
                               {x.buffer, device_weights_[i].buffer(stream, inputs), unused, unused,
                                bias, unused, y.buffer});
    x = y;
  }
}

}  // namespace

const Schema& conv_chain_schema() {
  static const Schema schema = {"ConvChain",
                                {{"X", Role::kReal},
                                 {"bias", Role::kReal, Need::kOptional},
                                 {"W", Role::kReal, Need::kVariadic, true}},
                                {{"stages", AttributeKind::kInt, true},
                                 {"kernel_shapes", AttributeKind::kInts, true},
                                 {"strides", AttributeKind::kInts, true},
                                 {"pads", AttributeKind::kInts, true},
                                 {"dilations", AttributeKind::kInts, true},
                                 {"groups", AttributeKind::kInts, true},
                                 {"activation", AttributeKind::kString},
                                 {"clip_min", AttributeKind::kFloat},
                                 {"clip_max", AttributeKind::kFloat}},
                                [](const NodeInfo& node) -> std::unique_ptr<Operator> {
                                  return std::make_unique<ConvChain>(node);
                                },
                                outline};
  return schema;
}

}  // namespace rx
