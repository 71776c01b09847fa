// What follows a product before it is written: y = act(x + bias + residual).
#pragma once

#include <limits>
#include <string>

#include "base/error.h"

namespace rx::cpu {

enum class Activation { kNone, kRelu, kClip, kGelu, kGeluTanh, kSilu };

// The activation of an operator's attribute ("" is none); refuses other names.
inline Activation activation_of(const std::string& name) {
  if (name.empty()) return Activation::kNone;
  if (name == "Relu") return Activation::kRelu;
  if (name == "Clip") return Activation::kClip;
  if (name == "Gelu") return Activation::kGelu;
  if (name == "GeluTanh") return Activation::kGeluTanh;
  if (name == "Silu") return Activation::kSilu;
  refuse("the activation ", name, " is none of Relu, Clip, Gelu, GeluTanh, Silu");
}

// NaN passes through all activations. Gelu and Silu of -infinity are NaN, as the formula is in IEEE
// arithmetic (-infinity times 0).
struct Epilogue {
  Activation activation = Activation::kNone;
  float low = std::numeric_limits<float>::lowest();  // of Clip
  float high = std::numeric_limits<float>::max();
  const float* bias = nullptr;      // products: one a column; convolutions: one an output channel
  const float* residual = nullptr;  // shape of y; may be y itself
};

}  // namespace rx::cpu
