// Attention of a ragged step on a CPU: every query against its own history in the K/V arena, in one call per layer.
//
// Each query's arithmetic depends on its own history alone, in a fixed order and with fixed lanes: the same bits in any
// batch, any chunk, any place of the arena, on any number of threads. C++17 with GCC's vector types and shuffles;
// compiled on the machine that runs it, for that machine.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "crew.h"
#include "lanes.h"

namespace {

constexpr int64_t kPartWork = 1 << 15;  // multiply-adds: below this a part of a call is done sooner than shared
constexpr int64_t kPartsPerThread = 8;  // histories differ in length

// Of a processor with registers of 64 bytes, which has 32 of them, or of smaller ones, which has 16: so many keys for
// `Heads` heads at once, and so many vectors of values, that all sums stay in registers.
template <typename T, int Heads> constexpr int kKeys = kPieces == 1 ? Lanes<T>::count / 2 : Heads == 1 ? 4 : 2;
template <int Heads> constexpr int kVectors = kPieces == 1 || Heads == 1 ? 4 : 2;

// The products of `Heads` queries with as many keys as there are lanes, times `scale`; the last of the keys is `last`
// (those behind it repeat it).
template <typename T, int Heads>
inline void products(T* scores, int64_t scores_stride, const T* query, int64_t query_stride, const T* keys,
                     int64_t stride, int64_t last, int64_t size, T scale) {
  constexpr int64_t lanes = Lanes<T>::count;
  constexpr int some_keys = kKeys<T, Heads>, passes = lanes / some_keys;
  Lanes<T> partial[Heads][passes];
  #pragma GCC unroll 2
  for (int pass = 0; pass < passes; ++pass) {
    Lanes<T> products[Heads][some_keys];
    const T* key[some_keys];
    #pragma GCC unroll 16
    for (int j = 0; j < some_keys; ++j) {
      const int64_t place = pass * some_keys + j;
      key[j] = keys + (place < last ? place : last) * stride;
    }
    const auto add = [&](int64_t i, int64_t some) {
      Lanes<T> q[Heads];
      #pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) q[h] = load(query + h * query_stride + i, some);
      #pragma GCC unroll 16
      for (int j = 0; j < some_keys; ++j) {
        const auto k = load(key[j] + i, some);
        __builtin_prefetch(key[j] + lanes * stride + i);
        #pragma GCC unroll 4
        for (int h = 0; h < Heads; ++h) products[h][j] += q[h] * k;
      }
    };
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) add(i, lanes);
    if (i < size) add(i, size - i);
    #pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) partial[h][pass] = sums<T, some_keys>(products[h]);
  }
  #pragma GCC unroll 4
  for (int h = 0; h < Heads; ++h) store(scores + h * scores_stride, sums<T, passes, passes>(partial[h]) * scale);
}

// e^x for x <= 0, within 2 units in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], after Cephes' expf
// (Moshier 1992). NaN stays NaN.
inline Piece<float>::type exponential(Piece<float>::type x) {
  const Piece<float>::type least = Piece<float>::type{} - 87.0f;  // e^-87 is nothing beside the largest weight: 1
  x = x < least ? least : x;
  const Piece<float>::type n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;  // rounds to the nearest
  const Piece<float>::type r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Piece<float>::type p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const auto bits = (__builtin_convertvector(n, Piece<float>::places) + 127) << 23;
  Piece<float>::type power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline Piece<double>::type exponential(Piece<double>::type x) {
  for (size_t i = 0; i < sizeof x / sizeof x[0]; ++i) x[i] = std::exp(x[i]);
  return x;
}

// Scores to weights, in place: the largest gets 1. Returns their sum, in which `sink` counts. `padded` entries, a whole
// number of vectors, have room.
template <typename T> T softmax(T* scores, int64_t count, int64_t padded, const T* sink) {
  constexpr int64_t lanes = Lanes<T>::count;
  for (int64_t j = count; j < padded; ++j) scores[j] = scores[count - 1];
  auto peaks = load(scores);
  for (int64_t j = lanes; j < padded; j += lanes) peaks = larger(peaks, load(scores + j));
  T peak_of[lanes];
  store(peak_of, peaks);
  T peak = peak_of[0];
  for (int64_t i = 1; i < lanes; ++i) peak = peak_of[i] > peak ? peak_of[i] : peak;
  if (sink && *sink > peak) peak = *sink;
  for (int64_t j = 0; j < padded; j += lanes) {
    const auto some = load(scores + j);
    store(scores + j, each(some, some, [peak](auto x, auto) { return exponential(x - peak); }));
  }
  for (int64_t j = count; j < padded; ++j) scores[j] = 0;
  Lanes<T> totals;
  for (int64_t j = 0; j < padded; j += lanes) totals += load(scores + j);
  T total = sum(totals);
  if (sink) total += std::exp(*sink - peak);
  return total;
}

// The weighted sums of `Vectors` vectors of the values for `Heads` heads at once: all of them stay in registers.
template <typename T, int Heads, int Vectors>
inline void mix(T* out, int64_t out_stride, const T* weights, int64_t weights_stride, const T* total, const T* values,
                int64_t stride, int64_t count) {
  constexpr int64_t lanes = Lanes<T>::count;
  Lanes<T> totals[Heads][Vectors];
  for (int64_t j = 0; j < count; ++j)
    #pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) {
      __builtin_prefetch(values + (j + lanes) * stride + v * lanes);
      const auto value = load(values + j * stride + v * lanes);
      #pragma GCC unroll 16
      for (int h = 0; h < Heads; ++h) totals[h][v] += value * weights[h * weights_stride + j];
    }
  #pragma GCC unroll 16
  for (int h = 0; h < Heads; ++h)
    #pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) store(out + h * out_stride + v * lanes, totals[h][v] / total[h]);
}

template <typename T, int Heads>
inline void mix_heads(T* out, int64_t size, const T* weights, int64_t weights_stride, const T* total, const T* values,
                      int64_t stride, int64_t count) {
  constexpr int64_t lanes = Lanes<T>::count;
  int64_t i = 0;
  for (; i + kVectors<Heads> * lanes <= size; i += kVectors<Heads> * lanes)
    mix<T, Heads, kVectors<Heads>>(out + i, size, weights, weights_stride, total, values + i, stride, count);
  for (; i + lanes <= size; i += lanes)
    mix<T, Heads, 1>(out + i, size, weights, weights_stride, total, values + i, stride, count);
  for (; i < size; ++i)
    for (int h = 0; h < Heads; ++h) {
      T mixed = 0;
      for (int64_t j = 0; j < count; ++j) mixed += values[i + j * stride] * weights[h * weights_stride + j];
      out[h * size + i] = mixed / total[h];
    }
}

}  // namespace

extern "C" {

// How the heads of a layer look; the same in every step. Sizes in numbers of T.
struct Layer {
  int64_t kv_heads, group, key_size, value_size;
  double scale;
  double softcap;     // 0: none
  const void* sinks;  // [kv_heads * group] or null
};

// A step's tokens. Strides in numbers of T; the last dimension is dense. `slots`, `first` and `count` are [tokens]:
// where in the arena a token's K/V go, where the history of its query begins there, and how long it is.
struct Step {
  int64_t tokens;
  const int64_t *slots, *first, *count;
};

struct Heads {
  const void* data;
  int64_t head_stride, token_stride;
};
}

namespace {

template <typename T> void keep(const Heads& from, T* arena, const Layer& layer, const Step& step, int64_t size) {
  for (int64_t token = 0; token < step.tokens; ++token)
    for (int64_t head = 0; head < layer.kv_heads; ++head)
      std::memcpy(arena + (step.slots[token] * layer.kv_heads + head) * size,
                  static_cast<const T*>(from.data) + head * from.head_stride + token * from.token_stride,
                  size * sizeof(T));
}

// `Heads` heads of one query token that share a key head. `scores` has room for their number times `padded` numbers.
template <typename T, int Heads>
void attend(const T* query, int64_t query_stride, const T* key, const T* value, T* out, const Layer& layer,
            int64_t count, int64_t padded, const T* sinks, T* scores) {
  constexpr int64_t lanes = Lanes<T>::count;
  const int64_t key_stride = layer.kv_heads * layer.key_size, value_stride = layer.kv_heads * layer.value_size;
  for (int64_t j = 0; j < count; j += lanes) {
    products<T, Heads>(scores + j, padded, query, query_stride, key + j * key_stride, key_stride, count - 1 - j,
                       layer.key_size, T(layer.scale));
  }
  if (layer.softcap != 0)
    for (int64_t h = 0; h < Heads; ++h)
      for (int64_t j = 0; j < count; ++j)
        scores[h * padded + j] = std::tanh(scores[h * padded + j] / T(layer.softcap)) * T(layer.softcap);
  T total[Heads];
  for (int64_t h = 0; h < Heads; ++h) total[h] = softmax(scores + h * padded, count, padded, sinks ? sinks + h : nullptr);
  mix_heads<T, Heads>(out, layer.value_size, scores, padded, total, value, value_stride, count);
}

// All heads of one query token that share a key head.
template <typename T>
void attend(const Heads& query, const T* keys, const T* values, T* out, const Layer& layer, int64_t first,
            int64_t count, int64_t kv_head, int64_t token, T* scores) {
  const int64_t padded = (count + Lanes<T>::count - 1) / Lanes<T>::count * Lanes<T>::count;
  const T* key = keys + (first * layer.kv_heads + kv_head) * layer.key_size;
  const T* value = values + (first * layer.kv_heads + kv_head) * layer.value_size;
  for (int64_t g = 0; g < layer.group;) {
    const int64_t head = kv_head * layer.group + g, left = layer.group - g;
    const T* q = static_cast<const T*>(query.data) + head * query.head_stride + token * query.token_stride;
    const T* sinks = layer.sinks ? static_cast<const T*>(layer.sinks) + head : nullptr;
    T* result = out + (token * layer.kv_heads * layer.group + head) * layer.value_size;
    const auto some = left >= 3 ? attend<T, 3> : left == 2 ? attend<T, 2> : attend<T, 1>;
    some(q, query.head_stride, key, value, result, layer, count, padded, sinks, scores);
    g += left >= 3 ? 3 : left;
  }
}

template <typename T>
void step_of_layer(const Layer& layer, const Step& step, const Heads& query, const Heads& key, const Heads& value,
                   T* keys, T* values, T* out) {
  keep(key, keys, layer, step, layer.key_size);
  keep(value, values, layer, step, layer.value_size);
  int64_t looked_at = 0;
  for (int64_t token = 0; token < step.tokens; ++token) looked_at += step.count[token];
  const int64_t tasks = step.tokens * layer.kv_heads;
  const int64_t worthwhile = looked_at * layer.kv_heads * layer.group * (layer.key_size + layer.value_size) / kPartWork;
  const int64_t parts = std::max<int64_t>(1, std::min({tasks, worthwhile, kPartsPerThread * crew::size()}));
  crew::share(parts, [&](int64_t part) {
    std::vector<T> scores;
    for (int64_t task = tasks * part / parts; task < tasks * (part + 1) / parts; ++task) {
      const int64_t token = task / layer.kv_heads, count = step.count[token];
      scores.resize(3 * (count + Lanes<T>::count));
      attend(query, keys, values, out, layer, step.first[token], count, task % layer.kv_heads, token, scores.data());
    }
  });
}

}  // namespace

extern "C" {

void attend_float32(const Layer* layer, const Step* step, const Heads* query, const Heads* key, const Heads* value,
                    float* keys, float* values, float* out) {
  step_of_layer(*layer, *step, *query, *key, *value, keys, values, out);
}

void attend_float64(const Layer* layer, const Step* step, const Heads* query, const Heads* key, const Heads* value,
                    double* keys, double* values, double* out) {
  step_of_layer(*layer, *step, *query, *key, *value, keys, values, out);
}
}
