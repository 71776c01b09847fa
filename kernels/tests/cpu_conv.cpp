// Convolutions: float and integer filters, groups, depthwise.
#include "cpu_conv_reference.h"

namespace rx::test {
namespace {

// Sizes, strides, pads and groups that take all ways through the code.
std::vector<ConvShape> shapes() {
  std::vector<ConvShape> all = {
      with(shape_of(1, 3, 5, 1, 7, 9), 1, 1, 0),  // the image itself
      with(shape_of(2, 17, 33, 1, 7, 7), 1, 1, 0),
      with(shape_of(1, 3, 64, 1, 17, 17), 7, 2, 3),  // a first layer
      with(shape_of(2, 16, 16, 1, 14, 14), 3, 1, 1),
      with(shape_of(1, 20, 37, 1, 7, 7), 3, 1, 1),
      with(shape_of(1, 8, 24, 1, 15, 33), 3, 2, 1),
      with(shape_of(1, 8, 12, 1, 15, 15), 1, 2, 0),  // rows and columns left out
      with(shape_of(1, 4, 6, 1, 12, 12), 2, 3, 0),
      with(shape_of(1, 4, 6, 1, 13, 11), 3, 3, 2),
      with(shape_of(1, 4, 6, 1, 16, 16), 3, 1, 2, 2),  // dilated
      with(shape_of(1, 4, 6, 1, 17, 17), 3, 2, 3, 3),
      with(shape_of(2, 8, 12, 4, 9, 9), 3, 1, 1),  // groups
      with(shape_of(1, 64, 64, 2, 5, 5), 3, 1, 1),
      with(shape_of(1, 6, 3, 3, 9, 9), 3, 1, 1),     // one output channel a group
      with(shape_of(2, 19, 19, 19, 9, 9), 3, 1, 1),  // depthwise
      with(shape_of(1, 5, 5, 5, 40, 70), 3, 1, 1),
      with(shape_of(1, 5, 5, 5, 33, 35), 3, 2, 1),
      with(shape_of(1, 3, 3, 3, 33, 20), 5, 1, 0),
      with(shape_of(1, 3, 3, 3, 7, 7), 7, 1, 3),
      with(shape_of(1, 40, 1, 1, 6, 6), 3, 1, 1),    // one output channel
      with(shape_of(1, 3, 4, 1, 40, 60), 3, 1, 1),   // several blocks of panels
      with(shape_of(1, 130, 20, 1, 6, 6), 3, 1, 1),  // several blocks of depth
      with(shape_of(1, 4, 4, 1, 2, 2), 3, 1, 1),
      with(shape_of(1, 4, 4, 1, 1, 1), 1, 5, 0),
  };
  ConvShape line = shape_of(2, 6, 9, 1, 1, 50);  // rank 1
  line.kernel[1] = 5;
  line.pads[1] = 2;
  line.pads[3] = 1;
  line.stride[1] = 2;
  all.push_back(line);
  ConvShape uneven = shape_of(1, 4, 9, 1, 11, 10);
  uneven.kernel[0] = 3;
  uneven.kernel[1] = 2;
  uneven.stride[0] = 2;
  uneven.pads[0] = 2;
  uneven.pads[3] = 3;
  uneven.dilation[1] = 4;
  all.push_back(uneven);
  return all;
}

using Run = std::function<void(Threads&, const Floats&, Floats&, const cpu::Epilogue&)>;

void compare(Comparison& comparison, const ConvShape& s, const Filter& filter, int at,
             Random& random, const Run& run) {
  const Floats x = random.reals(s.batch * s.channels * s.height * s.width);
  const std::int64_t count = s.batch * s.out_channels * s.pixels();
  const Floats bias = random.reals(s.out_channels), residual = random.reals(count);
  const cpu::Epilogue e = epilogue_of(at, bias, residual);
  Floats y(static_cast<std::size_t>(count + 1), std::numeric_limits<float>::quiet_NaN());
  Crew crew(static_cast<std::size_t>(1 + at % 3));
  run(crew, x, y, e);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t plane = i / s.pixels();
    comparison.add(y[static_cast<std::size_t>(i)], sum_of(s, x, filter, plane, i % s.pixels()),
                   s.depth(), e, plane % s.out_channels, i);
  }
  CHECK(std::isnan(y.back()));
}

RX_TEST(float_filters) {
  each_isa([](const std::string& isa) {
    Comparison comparison("conv " + isa);
    Random random(1);
    int at = 0;
    for (const ConvShape& s : shapes())
      for (int again = 0; again < 2; ++again) {
        const Floats w = random.reals(s.out_channels * s.depth());
        const cpu::PackedFilter packed(s.out_channels, s.group, s.depth(), w.data());
        compare(
            comparison, s,
            [&](std::int64_t channel, std::int64_t entry) {
              return w[static_cast<std::size_t>(channel * s.depth() + entry)];
            },
            at++, random,
            [&](Threads& threads, const Floats& x, Floats& y, const cpu::Epilogue& e) {
              cpu::conv(threads, s, x.data(), packed, y.data(), e);
            });
      }
  });
}

RX_TEST(integer_filters) {
  each_isa([](const std::string& isa) {
    Comparison comparison("quant conv " + isa);
    Random random(2);
    int at = 0;
    for (const ConvShape& s : shapes())
      for (const int bits : {2, 4, 8}) {
        cpu::QuantView view;
        view.bits = bits;
        view.rows = s.out_channels;
        view.columns = s.depth();
        view.block =
            std::vector<std::int64_t>{8, 16, 24, 32, 128}[static_cast<std::size_t>(at % 5)];
        const auto data = random.bytes(view.rows * view.blocks() * view.block_bytes());
        const auto zeros = random.bytes(view.rows * view.zero_bytes());
        const Floats scales = random.reals(view.rows * view.blocks());
        view.data = data.data();
        view.scales = scales.data();
        if (at % 2) view.zeros = zeros.data();
        const cpu::PackedQuantFilter packed(s.group, view);
        compare(
            comparison, s,
            [&](std::int64_t channel, std::int64_t entry) {
              const std::int64_t grid = channel * view.blocks() + entry / view.block;
              const std::int64_t bit = entry % view.block * bits;
              const int value =
                  data[static_cast<std::size_t>(grid * view.block_bytes() + bit / 8)] >> (bit % 8) &
                  ((1 << bits) - 1);
              return static_cast<double>(value - view.zero(channel, entry / view.block)) *
                     static_cast<double>(scales[static_cast<std::size_t>(grid)]);
            },
            at++, random,
            [&](Threads& threads, const Floats& x, Floats& y, const cpu::Epilogue& e) {
              cpu::quant_conv(threads, s, x.data(), packed, y.data(), e);
            });
      }
  });
}

// What one pixel holds must not reach outputs that do not read it, through padding or the ends of
// vectors.
RX_TEST(nan_stays_where_it_is_read) {
  each_isa([](const std::string&) {
    Random random(4);
    for (const ConvShape& s : shapes()) {
      const Floats w = random.reals(s.out_channels * s.depth());
      Floats x = random.reals(s.batch * s.channels * s.height * s.width);
      const std::size_t bad = x.size() / 2;
      x[bad] = std::numeric_limits<float>::quiet_NaN();
      Floats y(static_cast<std::size_t>(s.batch * s.out_channels * s.pixels()));
      OneThread alone;
      cpu::conv(alone, s, x.data(), cpu::PackedFilter(s.out_channels, s.group, s.depth(), w.data()),
                y.data());
      for (std::size_t i = 0; i < y.size(); ++i) {
        const Sum sum = sum_of(
            s, x, [](std::int64_t, std::int64_t) { return 1.0; },
            static_cast<std::int64_t>(i) / s.pixels(), static_cast<std::int64_t>(i) % s.pixels());
        CHECK_EQUAL(std::isnan(y[i]), std::isnan(sum.value));
      }
    }
  });
}

RX_TEST(bad_and_empty_input) {
  OneThread alone;
  const Floats numbers(1000, 1.0f);
  Floats y(100, 7.0f);
  const cpu::PackedFilter filter(4, 1, 18, numbers.data());
  ConvShape s = with(shape_of(1, 2, 4, 1, 3, 3), 3, 1, 1);
  for (const std::int64_t size : {0, -1}) {
    ConvShape bad = s;
    bad.stride[1] = size;
    CHECK_THROWS("too small", cpu::conv(alone, bad, numbers.data(), filter, y.data()));
  }
  ConvShape bad = s;
  bad.pads[3] = -1;
  CHECK_THROWS("too small", cpu::conv(alone, bad, numbers.data(), filter, y.data()));
  bad = s;
  bad.group = 3;
  CHECK_THROWS("do not divide", cpu::conv(alone, bad, numbers.data(), filter, y.data()));
  bad = s;
  bad.group = 2;
  CHECK_THROWS("found filters", cpu::conv(alone, bad, numbers.data(), filter, y.data()));
  CHECK_THROWS("do not divide", cpu::PackedFilter(4, 3, 18, numbers.data()));
  const cpu::PackedFilter* const filters[] = {&filter, &filter};
  const ConvShape stages[] = {s, s};
  CHECK_THROWS("do not fit",
               cpu::conv_chain(alone, {stages, 2}, numbers.data(), {filters, 2}, y.data()));
  s.batch = 0;
  cpu::conv(alone, s, nullptr, filter, nullptr);
  s.batch = 1;
  s.height = 0;  // an image of nothing but its margin
  s.pads[0] = s.pads[2] = 2;
  cpu::conv(alone, s, nullptr, filter, y.data());
  CHECK_EQUAL(s.pixels(), 6);
  for (std::size_t i = 0; i < 24; ++i) CHECK_EQUAL(y[i], 0.0f);
  CHECK_EQUAL(y[24], 7.0f);
}

}  // namespace
}  // namespace rx::test

int main() {
  return rx::test::run_all();
}
