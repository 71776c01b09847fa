#include "ops/device_conv.h"

#include "ops/on_device.h"

namespace rx {
namespace {

constexpr std::size_t kMostTables = 32;     // sizes of images; beyond, tables are made for each run
constexpr std::int64_t kTableStep = 32;     // the table is filled up to a multiple of it
constexpr std::int32_t kNowhere = 1 << 30;  // a row that no window has

std::int64_t bytes_of(Type type) {
  return static_cast<std::int64_t>(size_of(type));
}

std::int64_t entries(const cpu::ConvShape& shape) {
  return (shape.depth() + kTableStep - 1) / kTableStep * kTableStep;
}

void require_offsets(const cpu::ConvShape& shape, Type real) {
  require(shape.height == 0 || shape.width == 0 ||
              shape.group_in() * bytes_of(real) <= kMostOfSize / shape.height / shape.width,
          "X: the channels of a group have ", shape.group_in(), " images of ", shape.height, " by ",
          shape.width, "; OpenCL kernels take less than 2 GiB of them");
  require(shape.pixels() == 0 || shape.batch <= kMostOfSize / 2 / shape.pixels(), "Y has ",
          shape.batch, " images of ", shape.pixels(), " pixels; OpenCL kernels take at most 2^30");
}

double flops_of(const cpu::ConvShape& shape) {
  return 2.0 * static_cast<double>(shape.batch * shape.pixels()) *
         static_cast<double>(shape.out_channels * shape.depth());
}

double bytes_moved(const cpu::ConvShape& shape, const DeviceConv::Format& format) {
  const auto images = static_cast<double>(shape.batch * shape.channels) *
                      static_cast<double>(shape.height * shape.width);
  const auto made = static_cast<double>(shape.batch * shape.out_channels * shape.pixels());
  return (images + made * (format.residual ? 2 : 1)) * static_cast<double>(size_of(format.real)) +
         static_cast<double>(shape.out_channels * shape.depth() * format.bits) / 8;
}

}  // namespace

DeviceConv::DeviceConv(opencl::Context& context, const cpu::ConvShape& stage, const Format& format,
                       const Activated& activated)
    : format_(format),
      activated_(activated),
      depthwise_(format.bits >= 16 && stage.group_in() == 1 && stage.group > 1) {
  opencl::Values options = {{"REAL_BITS", bits_of(format.real)},
                            {"ACT", static_cast<std::int64_t>(activated.activation)},
                            {"BIAS", format.bias},
                            {"RESIDUAL", format.residual}};
  if (!depthwise_) {
    options["WEIGHT_BITS"] = format.bits;
    options["ZEROS"] = format.zeros;
  }
  variant_ = context.family(depthwise_ ? "depthwise" : "conv").variant(options);
}

void DeviceConv::enqueue(opencl::Stream& stream, const cpu::ConvShape& shape,
                         const Operands& operands) const {
  require_offsets(shape, format_.real);
  if (depthwise_) return enqueue_depthwise(stream, shape, operands);
  const std::int64_t oh = shape.out(0), ow = shape.out(1);
  const auto plan = variant_->plan(
      {shape.batch, shape.channels, shape.out_channels, shape.height, shape.width, oh, ow,
       shape.kernel[0], shape.kernel[1], shape.stride[0], shape.stride[1], shape.pads[0],
       shape.pads[1], shape.dilation[0], shape.dilation[1], shape.group, format_.block});
  const auto size = [&](const char* name) { return int_of(name, plan->value(name)); };
  const std::int64_t split = plan->value("SPLIT");
  const opencl::Buffer work =
      split > 1
          ? stream.temporary(Type::kFloat, {split, shape.batch, shape.out_channels, oh, ow}).buffer
          : stream.context().unused();
  const auto launch = [&](const char* kernel, opencl::Work work, const auto&... rest) {
    stream.launch(*plan, kernel, work, size("BATCH"), size("CIN"), size("COUT"), size("H"),
                  size("W"), size("OH"), size("OW"), size("KH"), size("KW"), size("SH"), size("SW"),
                  size("PT"), size("PL"), size("DH"), size("DW"), size("GROUP"), size("BLOCK"),
                  rest...);
  };
  opencl::Buffer windows = stream.context().unused();
  std::shared_ptr<const Table> kept;
  if (plan->needs("conv_table")) {
    kept = table(stream.context(), shape);
    if (kept) {
      windows = kept->device.buffer;
    } else {
      const std::int64_t bytes = 16 * entries(shape);
      windows = stream.temporary(static_cast<std::size_t>(bytes));
      launch("conv_table", {static_cast<double>(bytes), 0}, windows);
    }
  }
  launch("conv", {bytes_moved(shape, format_), flops_of(shape)}, activated_.low, activated_.high,
         operands.x, windows, operands.weight, operands.scales, operands.zeros, operands.bias,
         operands.residual, operands.y, work);
  if (plan->needs("conv_sum")) {
    const auto sums = static_cast<double>(shape.batch * shape.out_channels * shape.pixels()) *
                      static_cast<double>(split);
    launch("conv_sum", {4 * sums, sums}, activated_.low, activated_.high, work, operands.bias,
           operands.residual, operands.y);
  }
}

void DeviceConv::enqueue_depthwise(opencl::Stream& stream, const cpu::ConvShape& shape,
                                   const Operands& operands) const {
  const auto plan = variant_->plan(
      {shape.batch, shape.channels, shape.group_out(), shape.height, shape.width, shape.out(0),
       shape.out(1), shape.kernel[0], shape.kernel[1], shape.stride[0], shape.stride[1],
       shape.pads[0], shape.pads[1], shape.dilation[0], shape.dilation[1]});
  const auto size = [&](const char* name) { return int_of(name, plan->value(name)); };
  require(
      shape.pixels() == 0 || shape.batch * shape.out_channels <= kMostOfSize / 2 / shape.pixels(),
      "Y has ", shape.batch * shape.out_channels, " planes of ", shape.pixels(),
      " pixels; OpenCL kernels take at most 2^30 in all");
  stream.launch(*plan, "depthwise", {bytes_moved(shape, format_), flops_of(shape)}, size("BATCH"),
                size("CIN"), size("MULT"), size("H"), size("W"), size("OH"), size("OW"), size("KH"),
                size("KW"), size("SH"), size("SW"), size("PT"), size("PL"), size("DH"), size("DW"),
                activated_.low, activated_.high, operands.x, operands.weight, operands.bias,
                operands.residual, operands.y);
}

std::shared_ptr<const DeviceConv::Table> DeviceConv::table(opencl::Context& context,
                                                           const cpu::ConvShape& shape) const {
  const std::lock_guard<std::mutex> lock(guard_);
  const auto key = std::make_pair(shape.height, shape.width);
  const auto found = tables_.find(key);
  if (found != tables_.end()) return found->second;
  if (tables_.size() == kMostTables) return nullptr;
  auto made = std::make_shared<Table>();
  const std::int64_t all = entries(shape), bytes = bytes_of(format_.real);
  made->host.reserve(static_cast<std::size_t>(4 * all));
  const auto add = [&](std::int64_t at, std::int64_t y, std::int64_t x) {
    for (const std::int64_t one : {at, y, x, std::int64_t{0}})
      made->host.push_back(static_cast<std::int32_t>(one));
  };
  for (std::int64_t c = 0; c < shape.group_in(); ++c)
    for (std::int64_t i = 0; i < shape.kernel[0]; ++i)
      for (std::int64_t j = 0; j < shape.kernel[1]; ++j) {
        const std::int64_t y = i * shape.dilation[0], x = j * shape.dilation[1];
        add(((c * shape.height + y) * shape.width + x) * bytes, y, x);
      }
  while (static_cast<std::int64_t>(made->host.size()) < 4 * all) add(0, kNowhere, 0);
  made->device = context.constant({Type::kInt32, {all, 4}, made->host.data()});
  tables_.emplace(key, made);
  return made;
}

}  // namespace rx
