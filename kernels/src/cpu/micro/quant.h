// Integers of 2, 4 and 8 bits to numbers, in registers.
#pragma once

#include "cpu/micro/vec.h"

namespace rx::cpu {
namespace {

#if RX_LANES == 16
constexpr int kQuantRows = 8;
#else
constexpr int kQuantRows = 4;
#endif

// One vector of columns of a panel: integers less their zero points, exact.
template <int kBits, bool kZeros>
class Decoder {
 public:
  static constexpr int kEach = 32 / kBits;

  explicit Decoder(const float* zeros) {
    const Floats zero = kZeros ? load(zeros) : Floats{};
#if defined(__AVX512F__)
    zero_ = zero;
    for (int i = 0; i < 16; ++i)
      table_[i] = static_cast<float>((i & ((1 << kBits) - 1)) - (1 << (kBits - 1)));
#else
    zero_ = zero + (kMagic + (1 << (kBits - 1)));
#endif
  }

  // The integer number `place` of each word.
  Floats at(Words words, int place) const {
#if defined(__AVX512F__)
    // The index is the low 4 bits: the table has the numbers of 2 bits four times. (With a mask, as
    // GCC 12 warns of its own header for the form without.)
    const Words index = words >> static_cast<std::uint32_t>(place * kBits);
    const Floats value = bits_of<Floats>(
        _mm512_maskz_permutexvar_ps(0xffff, bits_of<__m512i>(index), bits_of<__m512>(table_)));
    return kZeros ? value - zero_ : value;
#else
    // 2^23 + q is a float with q in the lowest bits
    const Words q = (words >> static_cast<std::uint32_t>(place * kBits)) & ((1u << kBits) - 1);
    return bits_of<Floats>(q | 0x4b000000u) - zero_;
#endif
  }

 private:
  static constexpr float kMagic = 8388608.0f;
  Floats zero_;
#if defined(__AVX512F__)
  Floats table_;
#endif
};

// 8 bits: signed bytes, 16 columns one after another.
template <bool kZeros>
class Decoder<8, kZeros> {
 public:
  explicit Decoder(const float* zeros) : zero_(kZeros ? load(zeros) : Floats{}) {}
  Floats at(const std::int8_t* bytes) const {
    const Floats value = floats_of(bytes);
    return kZeros ? value - zero_ : value;
  }

 private:
  Floats zero_;
};

// sums of a block of one vector of columns; several for few rows, as they would wait for each other
template <int kRows>
struct Sums {
  static constexpr int kSplit = kRows == 1 ? 4 : kRows == 2 ? 2 : 1;
  Floats parts[kRows][kSplit] = {};

  void add(const float* a, Floats weight, int place) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) parts[r][place % kSplit] += splat(a[r]) * weight;
  }
  Floats row(int r) const {
    if constexpr (kSplit == 1) return parts[r][0];
    if constexpr (kSplit == 2) return parts[r][0] + parts[r][1];
    if constexpr (kSplit == 4) return (parts[r][0] + parts[r][1]) + (parts[r][2] + parts[r][3]);
  }
};

template <int kBits, int kRows, bool kZeros>
inline Sums<kRows> block_sums(const std::uint32_t* data, std::int64_t lane, const float* zeros,
                              std::int64_t count, const float* a) {
  Sums<kRows> sums;
  const Decoder<kBits, kZeros> decoder(zeros);
  if constexpr (kBits == 8) {
    const std::int8_t* bytes = reinterpret_cast<const std::int8_t*>(data) + lane;
    std::int64_t at = 0;
    for (; at + 4 <= count; at += 4) {
#pragma GCC unroll 4
      for (int place = 0; place < 4; ++place)
        sums.add(a + (at + place) * kRows, decoder.at(bytes + (at + place) * kPanel), place);
    }
    for (; at < count; ++at) sums.add(a + at * kRows, decoder.at(bytes + at * kPanel), 0);
  } else {
    constexpr int kEach = 32 / kBits;
    const std::int64_t whole = count / kEach;
    data += lane;
    for (std::int64_t word = 0; word < whole; ++word) {
      const Words words = load_as<Words>(data + word * kPanel);
#pragma GCC unroll 16
      for (int place = 0; place < kEach; ++place)
        sums.add(a + (word * kEach + place) * kRows, decoder.at(words, place), place);
    }
    if (whole * kEach < count) {
      const Words words = load_as<Words>(data + whole * kPanel);
      for (int place = 0; place < count - whole * kEach; ++place)
        sums.add(a + (whole * kEach + place) * kRows, decoder.at(words, place), 0);
    }
  }
  return sums;
}

// Lines of a cache that are asked for before they are needed: integers pass by once, faster than
// the processor's own guesses bring them.
constexpr std::int64_t kAhead = 24;

template <int kBits, int kRows, bool kZeros>
void quant_panel(const QuantRow& q, std::int64_t panel, float* y, std::int64_t y_row) {
  constexpr int kVectors = kPanel / kLanes;
  Floats totals[kRows][kVectors] = {};
  const std::uint32_t* data = q.b.data + panel * q.b.blocks * q.b.words * kPanel;
  const float* scales = q.b.scales + panel * q.b.blocks * kPanel;
  const float* zeros = kZeros ? q.b.zeros + panel * q.b.blocks * kPanel : nullptr;
  for (std::int64_t at = 0; at < q.k; at += q.b.block) {
    const std::int64_t count = least(q.b.block, q.k - at);
    for (std::int64_t word = 0; word < q.b.words; ++word)
      __builtin_prefetch(data + (word + kAhead) * kPanel);
    __builtin_prefetch(scales + kAhead / 4 * kPanel);
    for (int v = 0; v < kVectors; ++v) {
      const Sums<kRows> sums = block_sums<kBits, kRows, kZeros>(
          data, v * kLanes, kZeros ? zeros + v * kLanes : nullptr, count, q.a + at * kRows);
      const Floats scale = load(scales + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) totals[r][v] += scale * sums.row(r);
    }
    data += q.b.words * kPanel;
    scales += kPanel;
    if constexpr (kZeros) zeros += kPanel;
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) store(y + r * y_row + v * kLanes, totals[r][v]);
}

template <int kBits, int kRows, bool kZeros>
void quant_panels(const QuantRow& q) {
  const std::int64_t whole = q.columns / kPanel;
  for (std::int64_t panel = 0; panel < whole; ++panel)
    quant_panel<kBits, kRows, kZeros>(q, panel, q.y + panel * kPanel, q.y_row);
  if (whole * kPanel == q.columns) return;
  float last[kRows * kPanel];
  quant_panel<kBits, kRows, kZeros>(q, whole, last, kPanel);
  for (std::int64_t r = 0; r < kRows; ++r)
    for (std::int64_t column = whole * kPanel; column < q.columns; ++column)
      q.y[r * q.y_row + column] = last[r * kPanel + column - whole * kPanel];
}

template <int kBits, int kRows>
void quant_rows_of(const QuantRow& q) {
  if (q.rows < kRows) {
    if constexpr (kRows > 1) quant_rows_of<kBits, kRows - 1>(q);
    return;
  }
  q.b.zeros == nullptr ? quant_panels<kBits, kRows, false>(q) : quant_panels<kBits, kRows, true>(q);
}

void quant_row(const QuantRow& q) {
  if (q.b.bits == 8) return quant_rows_of<8, kQuantRows>(q);
  if (q.b.bits == 4) return quant_rows_of<4, kQuantRows>(q);
  quant_rows_of<2, kQuantRows>(q);
}

// One vector of columns of a block: `count` integers from a word's first on.
template <int kBits, bool kZeros>
inline void restore_lanes(const std::uint32_t* data, std::int64_t lane, const float* zeros,
                          Floats scale, std::int64_t count, float* to) {
  const Decoder<kBits, kZeros> decoder(zeros);
  if constexpr (kBits == 8) {
    const std::int8_t* bytes = reinterpret_cast<const std::int8_t*>(data) + lane;
    for (std::int64_t i = 0; i < count; ++i)
      store(to + i * kPanel, decoder.at(bytes + i * kPanel) * scale);
  } else {
    constexpr int kEach = 32 / kBits;
    const std::int64_t whole = count / kEach;
    for (std::int64_t word = 0; word < whole; ++word) {
      const Words words = load_as<Words>(data + word * kPanel + lane);
#pragma GCC unroll 16
      for (int place = 0; place < kEach; ++place)
        store(to + (word * kEach + place) * kPanel, decoder.at(words, place) * scale);
    }
    if (whole * kEach == count) return;
    const Words words = load_as<Words>(data + whole * kPanel + lane);
    for (int place = 0; place < count - whole * kEach; ++place)
      store(to + (whole * kEach + place) * kPanel, decoder.at(words, place) * scale);
  }
}

template <int kBits, bool kZeros>
void restore_panel(const QuantPanels& q, std::int64_t skip, std::int64_t k, float* to) {
  for (std::int64_t at = 0, block = 0; at < k; ++block) {
    const std::int64_t count = least(q.block - skip, k - at);
    const std::uint32_t* data = q.data + (block * q.words + skip * kBits / 32) * kPanel;
    for (std::int64_t lane = 0; lane < kPanel; lane += kLanes) {
      const std::int64_t grid = block * kPanel + lane;
      restore_lanes<kBits, kZeros>(data, lane, kZeros ? q.zeros + grid : nullptr,
                                   load(q.scales + grid), count, to + at * kPanel + lane);
    }
    at += count;
    skip = 0;
  }
}

template <int kBits>
void restore_bits(const QuantPanels& q, std::int64_t skip, std::int64_t k, float* to) {
  q.zeros == nullptr ? restore_panel<kBits, false>(q, skip, k, to)
                     : restore_panel<kBits, true>(q, skip, k, to);
}

void restore(const QuantPanels& q, std::int64_t skip, std::int64_t k, float* to) {
  if (q.bits == 8) return restore_bits<8>(q, skip, k, to);
  if (q.bits == 4) return restore_bits<4>(q, skip, k, to);
  restore_bits<2>(q, skip, k, to);
}

// Rows of an embedding: neighbours are in one word.
template <int kBits>
inline Floats neighbours(const std::uint8_t* data) {
  if constexpr (kBits == 8) {
    const Floats value = floats_of(reinterpret_cast<const std::int8_t*>(data));
    return select(value < splat(0.0f), value + 256.0f, value);
  } else {
    constexpr int kBytes = static_cast<int>(kLanes) * kBits / 8;
    std::uint64_t all = 0;
    __builtin_memcpy(&all, data, kBytes);  // little-endian
    Words words = splat_word(static_cast<std::uint32_t>(all));
    Words shifts;
    for (int i = 0; i < kLanes; ++i) {
      shifts[i] = static_cast<std::uint32_t>(i * kBits % 32);
      if (i * kBits >= 32) words[i] = static_cast<std::uint32_t>(all >> 32);
    }
    const Words q = words >> shifts & ((1u << kBits) - 1);
    return __builtin_convertvector(bits_of<Ints>(q), Floats);
  }
}

template <int kBits>
void restore_some(const QuantBlock& q) {
  std::int64_t at = 0;
  for (; at + kLanes <= q.count; at += kLanes)
    store(q.y + at, (neighbours<kBits>(q.data + at * kBits / 8) - q.zero) * q.scale);
  for (; at < q.count; ++at) {
    const int value = q.data[at * kBits / 8] >> (at * kBits % 8) & ((1 << kBits) - 1);
    q.y[at] = (static_cast<float>(value) - q.zero) * q.scale;
  }
}

void restore_block(const QuantBlock& q) {
  if (q.bits == 8) return restore_some<8>(q);
  if (q.bits == 4) return restore_some<4>(q);
  restore_some<2>(q);
}

}  // namespace
}  // namespace rx::cpu
