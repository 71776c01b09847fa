// One convolution after another.
#include <algorithm>

#include "cpu_conv_reference.h"

namespace rx::test {
namespace {

// A chain of exact numbers: small integers, so that every sum is exact in float too.
RX_TEST(chains) {
  each_isa([](const std::string& isa) {
    Random random(3);
    ConvShape first = with(shape_of(2, 12, 5, 1, 13, 17), 1, 1, 0);
    ConvShape second = shape_of(2, 5, 6, 1, 13, 17);
    second.kernel[0] = 3;
    second.pads[0] = second.pads[2] = 1;
    second.stride[0] = 2;
    ConvShape third = shape_of(2, 6, 6, 6, 7, 17);
    third.kernel[1] = 3;
    third.pads[1] = third.pads[3] = 1;
    const ConvShape fourth = with(shape_of(2, 6, 20, 1, 7, 17), 1, 1, 0);
    const std::vector<ConvShape> stages = {first, second, third, fourth};
    for (std::size_t count = 1; count <= stages.size(); ++count) {
      const std::vector<ConvShape> some(stages.begin(),
                                        stages.begin() + static_cast<std::ptrdiff_t>(count));
      const auto integers = [&](std::int64_t size) {
        Floats all(static_cast<std::size_t>(size));
        for (float& v : all) v = static_cast<float>(random.below(7) - 3);
        return all;
      };
      const Floats x = integers(2 * 12 * 13 * 17);
      std::vector<Floats> weights;
      std::vector<cpu::PackedFilter> packed;
      std::vector<const cpu::PackedFilter*> filters;
      for (const ConvShape& s : some) {
        weights.push_back(integers(s.out_channels * s.depth()));
        packed.emplace_back(s.out_channels, s.group, s.depth(), weights.back().data());
      }
      for (const cpu::PackedFilter& filter : packed) filters.push_back(&filter);
      Floats expected = x;
      for (std::size_t stage = 0; stage < count; ++stage) {
        const ConvShape& s = some[stage];
        Floats next;
        for (std::int64_t i = 0; i < s.batch * s.out_channels * s.pixels(); ++i)
          next.push_back(static_cast<float>(
              sum_of(
                  s, expected,
                  [&](std::int64_t channel, std::int64_t entry) {
                    return weights[stage][static_cast<std::size_t>(channel * s.depth() + entry)];
                  },
                  i / s.pixels(), i % s.pixels())
                  .value));
        expected = next;
      }
      cpu::Epilogue e;
      const Floats bias = integers(some.back().out_channels);
      e.bias = bias.data();
      e.activation = cpu::Activation::kRelu;
      Floats y(expected.size());
      Crew crew(count);
      cpu::conv_chain(crew, some, x.data(), filters, y.data(), e);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const std::size_t channel = i / static_cast<std::size_t>(some.back().pixels()) %
                                    static_cast<std::size_t>(some.back().out_channels);
        const float last = std::max(0.0f, expected[i] + bias[channel]);
        CHECK_EQUAL(y[i], last);
      }
    }
    std::printf("     chains %s: 1 to 4 stages, all equal\n", isa.c_str());
  });
}

}  // namespace
}  // namespace rx::test

int main() {
  return rx::test::run_all();
}
