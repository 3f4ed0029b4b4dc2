// Linear layers in int8 on a CPU with AVX-512 VNNI: quantize the rows, multiply, and scale, in one pass over the weights.
//
// What it computes is Int8Linear's formula, bit for bit: the sums are integers, and what is rounded is one number's own.
// So a row's result depends neither on the rows beside it nor on the number of threads. The caller keeps sizes below
// 2^31 / 255 / 127, so that no sum overflows.

#if defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__)  // elsewhere torch computes them

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "crew.h"

namespace {

constexpr int64_t kPanel = 32;               // outputs that are computed together: two vectors of int32
constexpr int64_t kMostRows = 12;            // in a tile: 24 sums, 2 vectors of weights and 1 of a row fill the registers
constexpr int64_t kPartWork = 1 << 16;       // multiply-adds: below this a part of a call is done sooner than shared
constexpr int64_t kPartsPerThread = 4;
constexpr int64_t kSharedNumbers = 1 << 14;  // of the rows: fewer are quantized sooner than shared
constexpr float kSteps = 127, kSmallestPeak = 1e-30f;  // as in Int8Linear

inline __mmask16 lanes(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1; }

// Rows in tiles of about the same height.
struct Tiles {
  int64_t rows, count;
  explicit Tiles(int64_t rows) : rows(rows), count((rows + kMostRows - 1) / kMostRows) {}
  int64_t begin(int64_t tile) const { return rows * tile / count; }
};

// Quantized rows. Of each tile, four numbers of its first row, four of the second, ..., then the next four of the first:
// in the order in which they are multiplied. `sum` is that of a row's quantized numbers.
struct Rows {
  int64_t padded;  // size of a row: a multiple of 4
  std::unique_ptr<int8_t[]> numbers;
  std::unique_ptr<float[]> scale;
  std::unique_ptr<int32_t[]> sum;
  Rows(int64_t rows, int64_t padded)
      : padded(padded), numbers(new int8_t[rows * padded]), scale(new float[rows]), sum(new int32_t[rows]) {}
};

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

// A tile of `x` [rows, size].
void quantize(const float* x, int64_t size, const Tiles& tiles, int64_t tile, Rows& rows) {
  const int64_t begin = tiles.begin(tile), height = tiles.begin(tile + 1) - begin;
  for (int64_t i = 0; i < height; ++i) {
    int8_t* to = rows.numbers.get() + begin * rows.padded + 4 * i;
    const int64_t row = begin + i;
    rows.scale[row] = quantize(x + row * size, size, rows.padded, to, 4 * height, &rows.sum[row]);
  }
}

}  // namespace

extern "C" {

// A layer: weights [panels, padded / 4, 32 outputs, 4] of w + 128 each, `scale` and `bias` (or null) [width], and where
// its results go, [rows, width].
struct Linear {
  const uint8_t* packed;
  const float *scale, *bias;
  float* out;
  int64_t width;
};
}

namespace {

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
void multiply(const Rows& rows, int64_t row, const Linear& layer, int64_t panel, const uint8_t* ahead) {
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

template <int Lines, int Height = kMostRows>
void multiply(int64_t height, const Rows& rows, int64_t row, const Linear& layer, int64_t panel, const uint8_t* ahead) {
  if (height == Height) return multiply<Height, Lines>(rows, row, layer, panel, ahead);
  if constexpr (Height > 1) multiply<Lines, Height - 1>(height, rows, row, layer, panel, ahead);
}

// All rows times one panel. Memory is slower than one tile and faster than several: the next panel is fetched during
// the first two of them.
void multiply(const Rows& rows, const Tiles& tiles, const Linear& layer, int64_t panel) {
  const uint8_t* next = layer.packed + (panel + 1) * kPanel * rows.padded;
  if (tiles.count == 1) return multiply<2>(tiles.rows, rows, 0, layer, panel, next);
  for (int64_t tile = 0; tile < tiles.count; ++tile) {
    const int64_t row = tiles.begin(tile), height = tiles.begin(tile + 1) - row;
    if (tile < 2)
      multiply<1>(height, rows, row, layer, panel, next + tile * kPanel / 2 * rows.padded);
    else
      multiply<0>(height, rows, row, layer, panel, nullptr);
  }
}

inline int64_t panels(const Linear& layer) { return (layer.width + kPanel - 1) / kPanel; }

// Part `part` of `parts` of the panels of all `layers`.
void multiply(const Rows& rows, const Tiles& tiles, const Linear* layers, int64_t count, int64_t part, int64_t parts) {
  int64_t all = 0;
  for (int64_t i = 0; i < count; ++i) all += panels(layers[i]);
  int64_t next = all * part / parts, before = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (; next < all * (part + 1) / parts && next - before < panels(layers[i]); ++next)
      multiply(rows, tiles, layers[i], next - before);
    before += panels(layers[i]);
  }
}

}  // namespace

// What `count` layers make of the same `x` [rows, size].
extern "C" void int8_linears(const float* x, int64_t row_count, int64_t size, const Linear* layers, int64_t count) {
  const Tiles tiles(row_count);
  Rows rows(row_count, (size + 3) / 4 * 4);
  const auto quantize_tile = [&](int64_t tile) { quantize(x, size, tiles, tile, rows); };
  if (row_count * size >= kSharedNumbers) {
    crew::share(tiles.count, quantize_tile);
  } else {
    for (int64_t tile = 0; tile < tiles.count; ++tile) quantize_tile(tile);
  }
  int64_t width = 0;
  for (int64_t i = 0; i < count; ++i) width += layers[i].width;
  const int64_t worthwhile = row_count * size * width / kPartWork;
  const int64_t parts = std::max<int64_t>(1, std::min(worthwhile, kPartsPerThread * crew::size()));
  crew::share(parts, [&](int64_t part) { multiply(rows, tiles, layers, count, part, parts); });
}

#endif
