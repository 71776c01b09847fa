// Activations of single numbers.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/epilogue.h"

namespace rx::cpu {

inline float activate(float x, const Epilogue& epilogue) {
  switch (epilogue.activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kClip:
      x = x < epilogue.low ? epilogue.low : x;
      return x > epilogue.high ? epilogue.high : x;
    case Activation::kGelu:
      return x * 0.5f * std::erfc(x * -0.70710678f);
    case Activation::kGeluTanh:
      return x / (1 + std::exp(-1.59576912f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

// epilogue(sum) at position `at` of y, `channel` of the bias.
inline float finish(float sum, const Epilogue& epilogue, std::int64_t channel, std::int64_t at) {
  if (epilogue.bias != nullptr) sum += epilogue.bias[channel];
  if (epilogue.residual != nullptr) sum += epilogue.residual[at];
  return activate(sum, epilogue);
}

}  // namespace rx::cpu
