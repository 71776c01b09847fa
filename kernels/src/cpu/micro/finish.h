// Bias, residual and activations.
#pragma once

#include "cpu/epilogue.h"
#include "cpu/micro/vec.h"

namespace rx::cpu {
namespace {

// 2^x. Our fit of 2^f, |f| <= 1/2, is within 2^-28.3 of it; rounding makes that 2 units in the last
// place (more where the result is subnormal). NaN stays NaN.
inline Floats exp2_of(Floats x) {
  const Floats most = splat(160.0f);  // 2^160 is infinite, 2^-160 is 0
  x = select(x > most, most, x);
  x = select(x < -most, -most, x);
  const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x + magic;
  const Ints n = bits_of<Ints>(shifted) - bits_of<Ints>(magic);
  const Floats f = x - (shifted - magic);
  Floats p = f * 1.532647148e-04f + 1.339080627e-03f;
  p = p * f + 9.618505836e-03f;
  p = p * f + 5.550359935e-02f;
  p = p * f + 2.402264774e-01f;
  p = p * f + 6.931471825e-01f;
  p = p * f + 1.0f;
  // in two steps, as 2^n may lie outside the range of normal numbers
  const Ints half = n >> 1;
  const Floats low = bits_of<Floats>((half + 127) << 23);
  const Floats high = bits_of<Floats>((n - half + 127) << 23);
  return p * low * high;
}

// x * Phi(x), Phi the normal distribution; its upper tail is 2^p(|x|). The fit, its error (6 u |x|)
// and what infinities give are those of the kernels (cl/epilogue.clh).
inline Floats gelu(Floats x) {
  const Floats t = bits_of<Floats>(bits_of<Ints>(x) & 0x7fffffff);
  Floats p = t * -1.668336267e-06f + 2.632367796e-05f;
  p = p * t + -1.295702386e-04f;
  p = p * t + -2.585958282e-04f;
  p = p * t + 7.200629916e-03f;
  p = p * t + -5.257505178e-02f;
  p = p * t + -4.591877759e-01f;
  p = p * t + -1.151106954e+00f;
  p = p * t + -1.0f;
  const Floats tail = exp2_of(p);
  return x * select(x < splat(0.0f), tail, 1.0f - tail);
}

// x * sigmoid(z), m = -z * log2(e)
inline Floats gate(Floats x, Floats m) {
  return x / (1.0f + exp2_of(m));
}

template <Activation kActivation>
inline Floats activate(Floats x, Floats low, Floats high) {
  // written so that NaN stays NaN
  if constexpr (kActivation == Activation::kRelu) {
    const Floats zero = {};
    return select(x < zero, zero, x);
  }
  if constexpr (kActivation == Activation::kClip) {
    x = select(x < low, low, x);
    return select(x > high, high, x);
  }
  if constexpr (kActivation == Activation::kGelu) return gelu(x);
  if constexpr (kActivation == Activation::kGeluTanh)
    // 0.5 (1 + tanh(z / 2)) = sigmoid(z), z = 2 sqrt(2 / pi) (x + 0.044715 x^3)
    return gate(x, x * (x * x * -0.10294324f - 2.30220820f));
  if constexpr (kActivation == Activation::kSilu) return gate(x, x * -1.44269504f);
  return x;
}

template <Activation kActivation>
void finish_rows(const Finish& f) {
  const std::int64_t whole = f.columns / kLanes * kLanes;
  const std::int64_t rest = f.columns - whole;
  for (std::int64_t row = 0; row < f.rows; ++row) {
    float* y = f.y + row * f.y_row;
    const float* residual = f.residual == nullptr ? nullptr : f.residual + row * f.y_row;
    const bool vector = f.bias != nullptr && !f.bias_by_row;
    // -0 changes no sum, not even that of -0
    const Floats same = splat(f.bias != nullptr && f.bias_by_row ? f.bias[row] : -0.0f);
    for (std::int64_t at = 0; at < whole; at += kLanes) {
      const Floats bias = vector ? load(f.bias + at) : same;
      const Floats more = residual == nullptr ? splat(-0.0f) : load(residual + at);
      const Floats x = load(y + at) + bias + more;
      store(y + at, activate<kActivation>(x, splat(f.low), splat(f.high)));
    }
    if (rest == 0) continue;
    const Floats x = load_some(y + whole, rest);
    const Floats bias = vector ? load_some(f.bias + whole, rest) : same;
    const Floats more = residual == nullptr ? splat(-0.0f) : load_some(residual + whole, rest);
    store_some(y + whole, activate<kActivation>(x + bias + more, splat(f.low), splat(f.high)),
               rest);
  }
}

void finish(const Finish& f) {
  switch (static_cast<Activation>(f.activation)) {
    case Activation::kNone:
      return finish_rows<Activation::kNone>(f);
    case Activation::kRelu:
      return finish_rows<Activation::kRelu>(f);
    case Activation::kClip:
      return finish_rows<Activation::kClip>(f);
    case Activation::kGelu:
      return finish_rows<Activation::kGelu>(f);
    case Activation::kGeluTanh:
      return finish_rows<Activation::kGeluTanh>(f);
    case Activation::kSilu:
      return finish_rows<Activation::kSilu>(f);
  }
}

}  // namespace
}  // namespace rx::cpu
