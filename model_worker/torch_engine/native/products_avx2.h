// The part of products.cpp for AVX2: 8 outputs in a vector.
//
// vpmaddubsw multiplies bytes without a sign by bytes with one and adds pairs of products in 16 bits, where it saturates.
// 255 * 128 fits: so of pairs of a row's numbers that come to more, what each has beyond 64 is multiplied by itself. They
// are few where a few outliers set a row's scale (0.3 % of the demo model's), and then this is a third faster than what is
// exact at once: |a| times w with the sign of a, a third instruction for the two execution ports that multiply.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "products.h"

namespace {

constexpr int64_t kPanel = 16;         // outputs that are computed together: two vectors of int32
constexpr int64_t kMostRows = 6;       // in a tile: 12 sums, a vector of ones, and 3 that change fill the registers
constexpr int64_t kFetchingTiles = 1;  // a tile takes longer than its weights' way from memory

constexpr int kMost = 64;              // of a number whose pair comes to more than twice as much

#ifdef __AVXVNNI__
constexpr bool kSaturates = false;
inline __m256i add_products(__m256i sum, __m256i weights, __m256i numbers) {
  return _mm256_dpbusd_avx_epi32(sum, weights, numbers);
}
#else
constexpr bool kSaturates = true;
inline __m256i add_products(__m256i sum, __m256i weights, __m256i numbers) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, numbers), _mm256_set1_epi16(1)));
}
#endif

inline __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

inline __m256i lanes(int64_t left) {
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::min<int64_t>(left, 8))), places);
}

// Of a tile, whose rows stand side by side four numbers at a time, also the fours with a pair that comes to too much:
// which ones, and in `excess` what their numbers have beyond kMost, side by side like the numbers. What is kept for a tile
// begins where its first row's would.
struct Quantized : Rows {
  std::unique_ptr<int8_t[]> excess;
  std::unique_ptr<int32_t[]> fours, four_count;
  Quantized(int64_t rows, int64_t padded)
      : Rows(rows, padded),
        excess(new int8_t[rows * padded]),
        fours(new int32_t[rows * padded / 4]),
        four_count(new int32_t[rows]) {}
};

// One row, of which `to` holds four numbers every `stride` bytes. Returns its scale; NaN where the row is not finite.
float quantize(const float* row, int64_t size, int64_t padded, int8_t* to, int64_t stride, int32_t* sum) {
  const __m256 infinity = _mm256_set1_ps(__builtin_inff()), sign = _mm256_set1_ps(-0.0f);
  __m256 peaks = _mm256_setzero_ps(), outside = _mm256_setzero_ps();
  for (int64_t i = 0; i < size; i += 8) {
    const __m256 absolute = _mm256_andnot_ps(sign, _mm256_maskload_ps(row + i, lanes(size - i)));
    outside = _mm256_or_ps(outside, _mm256_cmp_ps(absolute, infinity, _CMP_NLT_UQ));
    peaks = _mm256_max_ps(peaks, absolute);
  }
  const bool not_finite = _mm256_movemask_ps(outside);
  float peak[8];
  _mm256_storeu_ps(peak, peaks);
  const float scale = std::max(*std::max_element(peak, peak + 8), kSmallestPeak) / kSteps;
  const __m256 inverse = _mm256_set1_ps(not_finite ? 0 : 1 / scale);
  const __m256i lowest_bytes = _mm256_set1_epi32(0x0c080400);
  __m256i totals = _mm256_setzero_si256();
  for (int64_t i = 0; i < padded; i += 8) {
    const __m256 some = _mm256_maskload_ps(row + i, lanes(not_finite ? 0 : size - i));
    const __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(some, inverse));
    totals = _mm256_add_epi32(totals, rounded);
    const __m256i bytes = _mm256_shuffle_epi8(rounded, lowest_bytes);
    const int32_t first = _mm256_extract_epi32(bytes, 0), second = _mm256_extract_epi32(bytes, 4);
    std::memcpy(to + i / 4 * stride, &first, 4);
    if (i + 4 < padded) std::memcpy(to + (i / 4 + 1) * stride, &second, 4);
  }
  int32_t total[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(total), totals);
  *sum = 0;
  for (const int32_t some : total) *sum += some;
  return not_finite ? __builtin_nanf("") : scale;
}

// Leaves kMost of numbers whose pair comes to too much, and keeps the rest in `excess`.
void set_excess_aside(Quantized& rows, Tile tile) {
  rows.four_count[tile.begin] = 0;
  if (!kSaturates) return;
  int8_t* numbers = rows.numbers.get() + tile.begin * rows.padded;
  int8_t* excess = rows.excess.get() + tile.begin * rows.padded;
  int32_t *fours = rows.fours.get() + tile.begin * rows.padded / 4, &count = rows.four_count[tile.begin];
  const int64_t size = tile.height * rows.padded, four = tile.height * 4;
  const auto note = [&](int64_t place) {
    if (count == 0 || fours[count - 1] != place / four) fours[count++] = static_cast<int32_t>(place / four);
  };
  int64_t i = 0;
  for (; i + 32 <= size; i += 32) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(load(numbers + i)), _mm256_set1_epi8(1));
    uint32_t left = _mm256_movemask_epi8(_mm256_cmpgt_epi16(pairs, _mm256_set1_epi16(2 * kMost)));
    for (; left; left &= left - 1) note(i + __builtin_ctz(left));
  }
  for (; i < size; i += 2)
    if (std::abs(numbers[i]) + std::abs(numbers[i + 1]) > 2 * kMost) note(i);
  for (int64_t j = 0; j < count * four; ++j) {
    int8_t& number = numbers[fours[j / four] * four + j % four];
    const int kept = std::clamp<int>(number, -kMost, kMost);
    excess[j] = static_cast<int8_t>(number - kept);
    number = static_cast<int8_t>(kept);
  }
}

// What a vector of sums of products becomes results with, and where they go in a row.
struct Columns {
  int64_t first;
  __m256i inside;
  __m256 scale, bias;
  bool biased;
  Columns(const Linear& layer, int64_t first)
      : first(first),
        inside(lanes(layer.width - first)),
        scale(_mm256_maskload_ps(layer.scale + first, inside)),
        bias(layer.bias ? _mm256_maskload_ps(layer.bias + first, inside) : _mm256_setzero_ps()),
        biased(layer.bias) {}

  // The weights' 128 too much comes off by the row's sum.
  void put(float* out, __m256i products, int32_t row_sum, float row_scale) const {
    const __m256 exact = _mm256_cvtepi32_ps(_mm256_sub_epi32(products, _mm256_set1_epi32(128 * row_sum)));
    __m256 scaled = _mm256_mul_ps(_mm256_mul_ps(exact, _mm256_set1_ps(row_scale)), scale);
    asm("" : "+x"(scaled));  // no multiply-add, which would round once instead of twice
    if (biased) scaled = _mm256_add_ps(scaled, bias);
    _mm256_maskstore_ps(out + first, inside, scaled);
  }
};

// Four numbers of each row times those of a panel.
template <int Height>
[[gnu::always_inline]] inline void add_four(__m256i (&sums)[Height][2], const uint8_t* weights, const int8_t* numbers) {
  const __m256i both[2] = {load(weights), load(weights + 32)};
  #pragma GCC unroll 16
  for (int i = 0; i < Height; ++i) {
    int32_t four;
    std::memcpy(&four, numbers + 4 * i, 4);
    #pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      sums[i][half] = add_products(sums[i][half], both[half], _mm256_set1_epi32(four));
      asm("" : "+x"(sums[i][half]));  // here and now: all products at once, as GCC 12 would have it, fill the registers
    }
  }
}

// A tile of `Height` rows from `row` on times one panel of weights. On the way `Lines` lines of memory at `ahead` are
// fetched for each four numbers: those of the next panel.
template <int Height, int Lines>
void multiply(const Quantized& rows, int64_t row, const Linear& layer, int64_t panel, const uint8_t* ahead) {
  const uint8_t* weights = layer.packed + panel * kPanel * rows.padded;
  const int8_t* numbers = rows.numbers.get() + row * rows.padded;
  __m256i sums[Height][2];
  #pragma GCC unroll 16
  for (int i = 0; i < Height; ++i) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < rows.padded; k += 4) {
    for (int line = 0; line < Lines; ++line) _mm_prefetch(ahead + (k / 4 * Lines + line) * 64, _MM_HINT_T1);
    add_four<Height>(sums, weights + k * kPanel, numbers + k * Height);
  }
  const int8_t* excess = rows.excess.get() + row * rows.padded;
  const int32_t* fours = rows.fours.get() + row * rows.padded / 4;
  for (int64_t j = 0; j < rows.four_count[row]; ++j)
    add_four<Height>(sums, weights + 4 * fours[j] * kPanel, excess + 4 * j * Height);
  const Columns left(layer, panel * kPanel), right(layer, panel * kPanel + 8);
  #pragma GCC unroll 16
  for (int i = 0; i < Height; ++i) {
    float* out = layer.out + (row + i) * layer.width;
    left.put(out, sums[i][0], rows.sum[row + i], rows.scale[row + i]);
    right.put(out, sums[i][1], rows.sum[row + i], rows.scale[row + i]);
  }
}

}  // namespace
