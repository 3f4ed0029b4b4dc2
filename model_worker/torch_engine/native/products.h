// What products.cpp and its halves for single instruction sets have in common.

#pragma once

#include <cstdint>
#include <memory>

extern "C" {

// A layer: weights [panels, padded / 4, outputs of a panel, 4] of w + 128 each, `scale` and `bias` (or null) [width], and
// where its results go, [rows, width].
struct Linear {
  const uint8_t* packed;
  const float *scale, *bias;
  float* out;
  int64_t width;
};
}

namespace {

constexpr float kSteps = 127, kSmallestPeak = 1e-30f;  // as in Int8Linear

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

// Neighbouring rows that are multiplied together.
struct Tile {
  int64_t begin, height;
};

}  // namespace
