// The part of products.cpp for AVX-512 VNNI: 16 outputs in a vector, four products per output in one instruction.

#pragma once

#include <immintrin.h>

#include <cstring>

#include "products.h"

namespace {

constexpr int64_t kPanel = 32;         // outputs that are computed together: two vectors of int32
constexpr int64_t kMostRows = 12;      // in a tile: 24 sums, 2 vectors of weights and 1 of a row fill the registers
constexpr int64_t kFetchingTiles = 2;  // memory is slower than one tile and faster than several

using Quantized = Rows;

inline __mmask16 lanes(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1; }

// One row, of which `to` holds four numbers every `stride` bytes. Returns its scale; NaN where the row is not finite.
float quantize(const float* row, int64_t size, int64_t padded, int8_t* to, int64_t stride, int32_t* sum) {
  const __m512 infinity = _mm512_set1_ps(__builtin_inff());
  __m512 peaks = _mm512_setzero_ps();
  __mmask16 not_finite = 0;
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 absolute = _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(size - i), row + i));
    not_finite |= _mm512_cmp_ps_mask(absolute, infinity, _CMP_NLT_UQ);
    peaks = _mm512_max_ps(peaks, absolute);
  }
  const float peak = _mm512_reduce_max_ps(peaks);
  const float scale = (peak < kSmallestPeak ? kSmallestPeak : peak) / kSteps;
  const __m512 inverse = _mm512_set1_ps(1 / scale);
  __m512i total = _mm512_setzero_si512();
  for (int64_t i = 0; i < padded; i += 16) {
    const __mmask16 inside = not_finite ? 0 : lanes(size - i);
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(inside, row + i), inverse));
    total = _mm512_add_epi32(total, rounded);
    int32_t fours[4];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(fours), _mm512_cvtepi32_epi8(rounded));
    for (int64_t j = 0; j < 4 && i + 4 * j < padded; ++j) std::memcpy(to + (i / 4 + j) * stride, fours + j, 4);
  }
  *sum = _mm512_reduce_add_epi32(total);
  return not_finite ? __builtin_nanf("") : scale;
}

inline void set_excess_aside(Quantized&, Tile) {}  // any number can be multiplied at once

// What a vector of sums of products becomes results with, and where they go in a row.
struct Columns {
  int64_t first;
  __mmask16 inside;
  __m512 scale, bias;
  bool biased;
  Columns(const Linear& layer, int64_t first)
      : first(first),
        inside(lanes(layer.width - first)),
        scale(_mm512_maskz_loadu_ps(inside, layer.scale + first)),
        bias(layer.bias ? _mm512_maskz_loadu_ps(inside, layer.bias + first) : _mm512_setzero_ps()),
        biased(layer.bias) {}

  // The weights' 128 too much comes off by the row's sum.
  void put(float* out, __m512i products, int32_t row_sum, float row_scale) const {
    const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(products, _mm512_set1_epi32(128 * row_sum)));
    __m512 scaled = _mm512_mul_ps(_mm512_mul_ps(exact, _mm512_set1_ps(row_scale)), scale);
    asm("" : "+v"(scaled));  // no multiply-add, which would round once instead of twice
    if (biased) scaled = _mm512_add_ps(scaled, bias);
    _mm512_mask_storeu_ps(out + first, inside, scaled);
  }
};

// A tile of `Height` rows from `row` on times one panel of weights. On the way `Lines` lines of memory at `ahead` are
// fetched for each four numbers: those of the next panel.
template <int Height, int Lines>
void multiply(const Quantized& rows, int64_t row, const Linear& layer, int64_t panel, const uint8_t* ahead) {
  const uint8_t* weights = layer.packed + panel * kPanel * rows.padded;
  const int8_t* numbers = rows.numbers.get() + row * rows.padded;
  __m512i sums[Height][2];
  // Without the pragmas GCC 12 keeps the sums in memory.
  #pragma GCC unroll 16
  for (int i = 0; i < Height; ++i) sums[i][0] = sums[i][1] = _mm512_setzero_si512();
  for (int64_t k = 0; k < rows.padded; k += 4) {
    for (int line = 0; line < Lines; ++line) _mm_prefetch(ahead + (k / 4 * Lines + line) * 64, _MM_HINT_T1);
    const __m512i first = _mm512_loadu_si512(weights + k * kPanel), second = _mm512_loadu_si512(weights + k * kPanel + 64);
    #pragma GCC unroll 16
    for (int i = 0; i < Height; ++i) {
      int32_t four;
      std::memcpy(&four, numbers + k * Height + 4 * i, 4);
      sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], first, _mm512_set1_epi32(four));
      sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], second, _mm512_set1_epi32(four));
    }
  }
  const Columns left(layer, panel * kPanel), right(layer, panel * kPanel + 16);
  // The sums leave the registers here and nowhere before: used in a loop that is not unrolled, they would all along.
  __m512i done[Height][2];
  #pragma GCC unroll 16
  for (int i = 0; i < Height; ++i) {
    _mm512_store_si512(&done[i][0], sums[i][0]);
    _mm512_store_si512(&done[i][1], sums[i][1]);
  }
  #pragma GCC unroll 1
  for (int i = 0; i < Height; ++i) {
    float* out = layer.out + (row + i) * layer.width;
    left.put(out, done[i][0], rows.sum[row + i], rows.scale[row + i]);
    right.put(out, done[i][1], rows.sum[row + i], rows.scale[row + i]);
  }
}

}  // namespace
