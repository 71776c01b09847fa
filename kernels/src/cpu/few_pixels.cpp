#include "cpu/few_pixels.h"

#include <algorithm>

#include "cpu/image.h"
#include "cpu/kernels.h"
#include "cpu/tasks.h"

namespace rx::cpu {
namespace {

// Strips that were packed before, each followed by 16 numbers more.
class StripsLeft final : public Left {
 public:
  StripsLeft(const float* data, std::int64_t stride) : data_(data), stride_(stride) {}
  Strip strip(std::int64_t row, std::int64_t, Range k, float*) const override {
    return {data_ + row / kPanel * stride_ + k.begin * kPanel, kPanel};
  }

 private:
  const float* data_;
  std::int64_t stride_;
};

// Rows of tiles are computed by eights and less, columns by sixteens.
double cost(std::int64_t rows, std::int64_t columns) {
  return static_cast<double>(rows) * static_cast<double>(panels(columns) * kPanel);
}

class FewPixels {
 public:
  FewPixels(const ConvShape& shape, const Sides& filters, std::int64_t granule)
      : s_(shape),
        filters_(filters),
        granule_(granule),
        grid_(shape),
        offsets_(grid_.offsets(shape.group_in())),
        pixels_(shape.pixels()),
        strips_(panels(pixels_)),
        stride_(shape.depth() * kPanel + kPanel),
        copied_(grid_.copies() ? shape.channels * grid_.plane() : 0),
        copy_(copied_),
        packed_(shape.group * strips_ * stride_),
        turned_(shape.out_channels * pixels_) {}

  // One image.
  void run(Threads& threads, const float* x, float* y, const Epilogue& epilogue) const {
    const std::int64_t size = s_.height * s_.width;
    const float* image = x;
    const float* end = x + s_.channels * size;
    if (grid_.copies()) {
      run_ranges(threads, s_.channels, static_cast<double>(grid_.plane()), [&](Range part) {
        for (std::int64_t plane = part.begin; plane < part.end; ++plane)
          grid_.copy(x + plane * size, end, copy_.data() + plane * grid_.plane());
      });
      image = copy_.data();
      end = image + copied_;
    }
    pack(threads, image, end);
    multiply(threads);
    finish(threads, y, epilogue);
  }

 private:
  void pack(Threads& threads, const float* image, const float* end) const {
    const double cost = static_cast<double>(stride_);
    run_ranges(threads, s_.group * strips_, cost, [&](Range part) {
      for (std::int64_t at = part.begin; at < part.end; ++at) {
        const PixelsRight pixels(s_, grid_, offsets_,
                                 image + at / strips_ * s_.group_in() * grid_.plane(), end);
        const std::int64_t strip = at % strips_;
        pixels.block({strip, strip + 1}, {0, s_.depth()}, packed_.data() + at * stride_);
      }
    });
  }

  void multiply(Threads& threads) const {
    std::vector<StripsLeft> lefts;
    std::vector<Product> products;
    lefts.reserve(static_cast<std::size_t>(s_.group));
    for (std::int64_t group = 0; group < s_.group; ++group) {
      lefts.emplace_back(packed_.data() + group * strips_ * stride_, stride_);
      products.push_back({pixels_,
                          s_.group_out(),
                          s_.depth(),
                          &lefts.back(),
                          filters_[static_cast<std::size_t>(group)].get(),
                          turned_.data() + group * s_.group_out() * pixels_,
                          {},
                          false,
                          granule_});
    }
    run_products(threads, products);
  }

  // (pixels, channels) to (channels, pixels).
  void finish(Threads& threads, float* y, const Epilogue& epilogue) const {
    const std::int64_t channels = s_.group_out();
    run_ranges(threads, s_.out_channels, static_cast<double>(4 * pixels_), [&](Range part) {
      for (std::int64_t at = part.begin; at < part.end;) {
        const std::int64_t group = at / channels;
        const std::int64_t end = std::min(part.end, (group + 1) * channels);
        kernels().pack_strip(turned_.data() + group * channels * pixels_ + at % channels, channels,
                             pixels_, end - at, y + at * pixels_, pixels_);
        run_finish(epilogue, true, {at, end}, {0, pixels_}, pixels_, y);
        at = end;
      }
    });
  }

  const ConvShape& s_;
  const Sides& filters_;
  std::int64_t granule_;
  Grid grid_;
  std::vector<std::int64_t> offsets_;
  std::int64_t pixels_;
  std::int64_t strips_;
  std::int64_t stride_;
  std::int64_t copied_;
  Scratch copy_;
  Scratch packed_;
  Scratch turned_;
};

}  // namespace

bool has_few_pixels(const ConvShape& s) {
  constexpr std::int64_t kFew = 64;
  return s.group_out() > 1 && s.pixels() <= kFew &&
         cost(s.pixels(), s.group_out()) < cost(s.group_out(), s.pixels());
}

void few_pixels(Threads& threads, const ConvShape& shape, const float* x, const Sides& filters,
                std::int64_t granule, float* y, const Epilogue& epilogue) {
  const FewPixels images(shape, filters, granule);
  const std::int64_t in = shape.channels * shape.height * shape.width;
  const std::int64_t out = shape.out_channels * shape.pixels();
  for (std::int64_t image = 0; image < shape.batch; ++image)
    images.run(threads, x + image * in, y + image * out, moved(epilogue, 0, image * out));
}

}  // namespace rx::cpu
