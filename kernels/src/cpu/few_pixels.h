// Convolutions with few outputs a channel: pixels are the rows of the product and channels its
// columns, as tiles are wider than high, and a column of few pixels would leave much of one empty.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/conv.h"
#include "cpu/product.h"

namespace rx::cpu {

// The filters of each group, as (depth, output channels).
using Sides = std::vector<std::unique_ptr<Right>>;

bool has_few_pixels(const ConvShape& shape);

void few_pixels(Threads& threads, const ConvShape& shape, const float* x, const Sides& filters,
                std::int64_t granule, float* y, const Epilogue& epilogue);

}  // namespace rx::cpu
