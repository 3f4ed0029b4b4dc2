// Linear layers in int8 on a CPU: quantize the rows, multiply, and scale, in one pass over the weights.
//
// What it computes is Int8Linear's formula, bit for bit: the sums are integers, and what is rounded is one number's own.
// So a row's result depends neither on the rows beside it nor on the number of threads. The caller keeps sizes below
// 2^31 / 255 / 127, so that no sum overflows. What depends on the width of vectors has a header for each instruction set.

#if defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#include "products_avx512.h"
#elif defined(__AVX2__)
#include "products_avx2.h"
#endif

#if defined(__AVX2__)  // elsewhere torch computes them

#include <algorithm>

#include "crew.h"

namespace {

constexpr int64_t kPartWork = 1 << 16;       // multiply-adds: below this a part of a call is done sooner than shared
constexpr int64_t kPartsPerThread = 4;
constexpr int64_t kSharedNumbers = 1 << 14;  // of the rows: fewer are quantized sooner than shared
constexpr int kLines = kPanel * 4 / 64;      // of memory, with a panel's weights for four numbers

// Rows in tiles of about the same height.
struct Tiles {
  int64_t rows, count;
  explicit Tiles(int64_t rows) : rows(rows), count((rows + kMostRows - 1) / kMostRows) {}
  Tile operator[](int64_t i) const { return {begin(i), begin(i + 1) - begin(i)}; }

 private:
  int64_t begin(int64_t i) const { return rows * i / count; }
};

// A tile of `x` [rows, size].
void quantize(const float* x, int64_t size, Tile tile, Quantized& rows) {
  for (int64_t i = 0; i < tile.height; ++i) {
    int8_t* to = rows.numbers.get() + tile.begin * rows.padded + 4 * i;
    const int64_t row = tile.begin + i;
    rows.scale[row] = quantize(x + row * size, size, rows.padded, to, 4 * tile.height, &rows.sum[row]);
  }
  set_excess_aside(rows, tile);
}

template <int Lines, int Height = kMostRows>
void multiply(const Quantized& rows, Tile tile, const Linear& layer, int64_t panel, const uint8_t* ahead) {
  if (tile.height == Height) return multiply<Height, Lines>(rows, tile.begin, layer, panel, ahead);
  if constexpr (Height > 1) multiply<Lines, Height - 1>(rows, tile, layer, panel, ahead);
}

// All rows times one panel. The next panel is fetched during the first tiles.
void multiply(const Quantized& rows, const Tiles& tiles, const Linear& layer, int64_t panel) {
  const uint8_t* next = layer.packed + (panel + 1) * kPanel * rows.padded;
  if (tiles.count == 1) return multiply<kLines>(rows, tiles[0], layer, panel, next);
  for (int64_t i = 0; i < tiles.count; ++i) {
    if (i < kFetchingTiles)
      multiply<kLines / kFetchingTiles>(rows, tiles[i], layer, panel, next + i * kPanel / kFetchingTiles * rows.padded);
    else
      multiply<0>(rows, tiles[i], layer, panel, nullptr);
  }
}

inline int64_t panels(const Linear& layer) { return (layer.width + kPanel - 1) / kPanel; }

// Part `part` of `parts` of the panels of all `layers`.
void multiply(const Quantized& rows, const Tiles& tiles, const Linear* layers, int64_t count, int64_t part,
              int64_t parts) {
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

extern "C" {

extern const int64_t int8_panel;
const int64_t int8_panel = kPanel;  // whoever packs weights asks

// What `count` layers make of the same `x` [rows, size].
void int8_linears(const float* x, int64_t row_count, int64_t size, const Linear* layers, int64_t count) {
  const Tiles tiles(row_count);
  Quantized rows(row_count, (size + 3) / 4 * 4);
  const auto quantize_tile = [&](int64_t i) { quantize(x, size, tiles[i], rows); };
  if (row_count * size >= kSharedNumbers) {
    crew::share(tiles.count, quantize_tile);
  } else {
    for (int64_t i = 0; i < tiles.count; ++i) quantize_tile(i);
  }
  int64_t width = 0;
  for (int64_t i = 0; i < count; ++i) width += layers[i].width;
  const int64_t worthwhile = row_count * size * width / kPartWork;
  const int64_t parts = std::max<int64_t>(1, std::min(worthwhile, kPartsPerThread * crew::size()));
  crew::share(parts, [&](int64_t part) { multiply(rows, tiles, layers, count, part, parts); });
}
}

#endif
