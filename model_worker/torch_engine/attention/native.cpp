// Attention of a ragged step on a CPU: every query against its own history in the K/V arena, in one call per layer.
//
// Each query's arithmetic depends on its own history alone, in a fixed order and with fixed lanes: the same bits in any
// batch, any chunk, any place of the arena, on any number of threads. C++17 with GCC's vector types and shuffles;
// compiled on the machine that runs it, for that machine.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kSerialWork = 1 << 16;  // multiply-adds that are done before a second thread is awake

template <typename T> struct Lanes;
template <> struct Lanes<float> {
  typedef float type __attribute__((vector_size(64)));
  typedef int32_t places __attribute__((vector_size(64)));
  static constexpr int64_t count = 16;
};
template <> struct Lanes<double> {
  typedef double type __attribute__((vector_size(64)));
  typedef int64_t places __attribute__((vector_size(64)));
  static constexpr int64_t count = 8;
};

template <typename T> inline typename Lanes<T>::type load(const T* from) {
  typename Lanes<T>::type lanes;
  std::memcpy(&lanes, from, sizeof lanes);  // the arena is aligned to its numbers, not to whole vectors
  return lanes;
}

template <typename T> inline void store(T* to, typename Lanes<T>::type lanes) { std::memcpy(to, &lanes, sizeof lanes); }

// The first `count` numbers, and zeros.
template <typename T> inline typename Lanes<T>::type load(const T* from, int64_t count) {
  typename Lanes<T>::type lanes = {};
  std::memcpy(&lanes, from, count * sizeof(T));
  return lanes;
}

// `a` and `b` hold sums of several keys side by side, `Width` numbers each that are still to be added up. Both in one,
// half as many numbers each: the same pairs are added for every key, wherever it stands.
template <typename T, int64_t Width>
inline typename Lanes<T>::type halve(typename Lanes<T>::type a, typename Lanes<T>::type b) {
  typename Lanes<T>::places low, high;
  for (int64_t i = 0; i < Lanes<T>::count; ++i) {
    low[i] = i / (Width / 2) * Width + i % (Width / 2);
    high[i] = low[i] + Width / 2;
  }
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

// The sum of each of the vectors, as one vector.
template <typename T, int64_t Width = Lanes<T>::count>
inline typename Lanes<T>::type sums(typename Lanes<T>::type* vectors) {
  for (int64_t i = 0; i < Width / 2; ++i) vectors[i] = halve<T, Width>(vectors[2 * i], vectors[2 * i + 1]);
  if constexpr (Width > 2) return sums<T, Width / 2>(vectors);
  return vectors[0];
}

template <typename T> inline T sum(typename Lanes<T>::type lanes) {
  T total[Lanes<T>::count];
  std::memcpy(total, &lanes, sizeof lanes);
  for (int64_t half = Lanes<T>::count / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) total[i] += total[i + half];
  return total[0];
}

// The products of `query` with as many keys as there are lanes, the last of them `last` (those behind it repeat it).
template <typename T>
inline typename Lanes<T>::type products(const T* query, const T* keys, int64_t stride, int64_t last, int64_t size) {
  constexpr int64_t lanes = Lanes<T>::count;
  typename Lanes<T>::type parts[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const auto part = load(query + i);
    for (int64_t j = 0; j < lanes; ++j) parts[j] += part * load(keys + (j < last ? j : last) * stride + i);
  }
  if (i < size) {
    const auto part = load(query + i, size - i);
    for (int64_t j = 0; j < lanes; ++j) parts[j] += part * load(keys + (j < last ? j : last) * stride + i, size - i);
  }
  return sums<T>(parts);
}

// e^x for x <= 0, within 2 units in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], after Cephes' expf
// (Moshier 1992). NaN stays NaN.
inline Lanes<float>::type exponential(Lanes<float>::type x) {
  const Lanes<float>::type least = Lanes<float>::type{} - 87.0f;  // e^-87 is nothing beside the largest weight, which is 1
  x = x < least ? least : x;
  const Lanes<float>::type n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;  // rounds to the nearest
  const Lanes<float>::type r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Lanes<float>::type p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const auto bits = (__builtin_convertvector(n, Lanes<float>::places) + 127) << 23;
  Lanes<float>::type power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline Lanes<double>::type exponential(Lanes<double>::type x) {
  for (int64_t i = 0; i < Lanes<double>::count; ++i) x[i] = std::exp(x[i]);
  return x;
}

// Scores to weights that sum up to one, in place; `padded` entries, a whole number of vectors, have room.
template <typename T> void softmax(T* scores, int64_t count, int64_t padded, const T* sink) {
  constexpr int64_t lanes = Lanes<T>::count;
  T peak = sink ? *sink : scores[0];
  for (int64_t j = 0; j < count; ++j) peak = scores[j] > peak ? scores[j] : peak;
  for (int64_t j = count; j < padded; ++j) scores[j] = peak;
  for (int64_t j = 0; j < padded; j += lanes) store(scores + j, exponential(load(scores + j) - peak));
  for (int64_t j = count; j < padded; ++j) scores[j] = 0;
  typename Lanes<T>::type totals = {};
  for (int64_t j = 0; j < padded; j += lanes) totals += load(scores + j);
  T total = sum<T>(totals);
  if (sink) total += std::exp(*sink - peak);
  for (int64_t j = 0; j < padded; j += lanes) store(scores + j, load(scores + j) / total);
}

// The weighted sums of `Vectors` vectors of the values for `Heads` heads at once: all of them stay in registers.
template <typename T, int Heads, int Vectors>
inline void mix(T* out, int64_t out_stride, const T* weights, int64_t weights_stride, const T* values, int64_t stride,
                int64_t count) {
  constexpr int64_t lanes = Lanes<T>::count;
  typename Lanes<T>::type totals[Heads][Vectors] = {};
  for (int64_t j = 0; j < count; ++j)
    for (int v = 0; v < Vectors; ++v) {
      const auto value = load(values + j * stride + v * lanes);
      for (int h = 0; h < Heads; ++h) totals[h][v] += value * weights[h * weights_stride + j];
    }
  for (int h = 0; h < Heads; ++h)
    for (int v = 0; v < Vectors; ++v) store(out + h * out_stride + v * lanes, totals[h][v]);
}

template <typename T, int Heads>
inline void mix_heads(T* out, int64_t size, const T* weights, int64_t weights_stride, const T* values, int64_t stride,
                      int64_t count) {
  constexpr int64_t lanes = Lanes<T>::count;
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes)
    mix<T, Heads, 4>(out + i, size, weights, weights_stride, values + i, stride, count);
  for (; i + lanes <= size; i += lanes)
    mix<T, Heads, 1>(out + i, size, weights, weights_stride, values + i, stride, count);
  for (; i < size; ++i)
    for (int h = 0; h < Heads; ++h) {
      T total = 0;
      for (int64_t j = 0; j < count; ++j) total += values[i + j * stride] * weights[h * weights_stride + j];
      out[h * size + i] = total;
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

// One query token's heads that share a key head. `scores` has room for `group` times `padded` numbers.
template <typename T>
void attend(const Heads& query, const T* keys, const T* values, T* out, const Layer& layer, int64_t first,
            int64_t count, int64_t kv_head, int64_t token, T* scores) {
  const int64_t padded = (count + Lanes<T>::count - 1) / Lanes<T>::count * Lanes<T>::count;
  const int64_t key_stride = layer.kv_heads * layer.key_size, value_stride = layer.kv_heads * layer.value_size;
  const T* key = keys + first * key_stride + kv_head * layer.key_size;
  const T* value = values + first * value_stride + kv_head * layer.value_size;
  const int64_t head = kv_head * layer.group, heads = layer.kv_heads * layer.group;
  const T* q = static_cast<const T*>(query.data) + head * query.head_stride + token * query.token_stride;
  for (int64_t j = 0; j < count; j += Lanes<T>::count)
    for (int64_t g = 0; g < layer.group; ++g)
      store(scores + g * padded + j,
            products(q + g * query.head_stride, key + j * key_stride, key_stride, count - 1 - j, layer.key_size) *
                T(layer.scale));
  if (layer.softcap != 0)
    for (int64_t g = 0; g < layer.group; ++g)
      for (int64_t j = 0; j < count; ++j)
        scores[g * padded + j] = std::tanh(scores[g * padded + j] / T(layer.softcap)) * T(layer.softcap);
  const T* sinks = static_cast<const T*>(layer.sinks);
  for (int64_t g = 0; g < layer.group; ++g) softmax(scores + g * padded, count, padded, sinks ? sinks + head + g : nullptr);
  T* result = out + (token * heads + head) * layer.value_size;
  int64_t g = 0;
  for (; g + 3 <= layer.group; g += 3)
    mix_heads<T, 3>(result + g * layer.value_size, layer.value_size, scores + g * padded, padded, value, value_stride,
                    count);
  for (; g < layer.group; ++g)
    mix_heads<T, 1>(result + g * layer.value_size, layer.value_size, scores + g * padded, padded, value, value_stride,
                    count);
}

template <typename T>
void step_of_layer(const Layer& layer, const Step& step, const Heads& query, const Heads& key, const Heads& value,
                   T* keys, T* values, T* out, int64_t threads) {
  keep(key, keys, layer, step, layer.key_size);
  keep(value, values, layer, step, layer.value_size);
  int64_t looked_at = 0, longest = 0;
  for (int64_t token = 0; token < step.tokens; ++token) {
    looked_at += step.count[token];
    longest = step.count[token] > longest ? step.count[token] : longest;
  }
  const int64_t work = looked_at * layer.kv_heads * layer.group * (layer.key_size + layer.value_size);
  const int64_t tasks = step.tokens * layer.kv_heads;
  #pragma omp parallel num_threads(threads) if (work > kSerialWork && threads > 1)
  {
    std::vector<T> scores(layer.group * (longest + Lanes<T>::count));
    #pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t token = task / layer.kv_heads;
      attend(query, keys, values, out, layer, step.first[token], step.count[token], task % layer.kv_heads, token,
             scores.data());
    }
  }
}

}  // namespace

extern "C" {

void attend_float32(const Layer* layer, const Step* step, const Heads* query, const Heads* key, const Heads* value,
                    float* keys, float* values, float* out, int64_t threads) {
  step_of_layer(*layer, *step, *query, *key, *value, keys, values, out, threads);
}

void attend_float64(const Layer* layer, const Step* step, const Heads* query, const Heads* key, const Heads* value,
                    double* keys, double* values, double* out, int64_t threads) {
  step_of_layer(*layer, *step, *query, *key, *value, keys, values, out, threads);
}
}
