// 64 bytes of numbers that are computed side by side: in as many registers as the processor needs for them.
//
// Sums are taken in the same lanes and the same order whatever the width of a register, so processors differ in speed,
// and in results only where one has no multiply-add. GCC holds a vector that is wider than a register in memory, so it
// is given vectors of a register's size.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int kRegister = 64;  // bytes
#elif defined(__AVX__)
constexpr int kRegister = 32;
#else
constexpr int kRegister = 16;
#endif
constexpr int kPieces = 64 / kRegister;

template <typename T> struct Piece;
template <> struct Piece<float> {
  typedef float type __attribute__((vector_size(kRegister)));
  typedef int32_t places __attribute__((vector_size(kRegister)));
};
template <> struct Piece<double> {
  typedef double type __attribute__((vector_size(kRegister)));
  typedef int64_t places __attribute__((vector_size(kRegister)));
};

template <typename T> struct Lanes {
  static constexpr int64_t count = 64 / sizeof(T);
  typename Piece<T>::type pieces[kPieces] = {};
};

// What `compute` makes of the pieces of `a` and `b`, one by one.
template <typename T, typename Compute> inline Lanes<T> each(Lanes<T> a, Lanes<T> b, const Compute& compute) {
  #pragma GCC unroll 4
  for (int i = 0; i < kPieces; ++i) a.pieces[i] = compute(a.pieces[i], b.pieces[i]);
  return a;
}

template <typename T> inline Lanes<T> operator+(Lanes<T> a, Lanes<T> b) {
  return each(a, b, [](auto x, auto y) { return x + y; });
}

template <typename T> inline Lanes<T> operator*(Lanes<T> a, Lanes<T> b) {
  return each(a, b, [](auto x, auto y) { return x * y; });
}

template <typename T> inline Lanes<T> operator*(Lanes<T> a, T b) {
  return each(a, a, [b](auto x, auto) { return x * b; });
}

template <typename T> inline Lanes<T> operator/(Lanes<T> a, T b) {
  return each(a, a, [b](auto x, auto) { return x / b; });
}

template <typename T> inline void operator+=(Lanes<T>& a, Lanes<T> b) { a = a + b; }

// `b` where it is larger, else `a`.
template <typename T> inline Lanes<T> larger(Lanes<T> a, Lanes<T> b) {
  return each(a, b, [](auto x, auto y) { return y > x ? y : x; });
}

// The arena is aligned to its numbers, not to whole vectors. Piece by piece, so that none goes through memory.
template <typename T> inline Lanes<T> load(const T* from) {
  Lanes<T> lanes;
  #pragma GCC unroll 4
  for (int i = 0; i < kPieces; ++i) std::memcpy(&lanes.pieces[i], from + i * Lanes<T>::count / kPieces, kRegister);
  return lanes;
}

template <typename T> inline void store(T* to, const Lanes<T>& lanes) {
  #pragma GCC unroll 4
  for (int i = 0; i < kPieces; ++i) std::memcpy(to + i * Lanes<T>::count / kPieces, &lanes.pieces[i], kRegister);
}

// The first `count` numbers, and zeros.
template <typename T> inline Lanes<T> load(const T* from, int64_t count) {
  if (count == Lanes<T>::count) return load(from);
  Lanes<T> lanes;
  std::memcpy(lanes.pieces, from, count * sizeof(T));
  return lanes;
}

// `a` and `b` hold sums of several keys side by side, `Width` numbers each that are still to be added up. Both in one,
// half as many numbers each: the same pairs are added for every key, wherever it stands.
template <typename T, int64_t Width> inline Lanes<T> halve(const Lanes<T>& a, const Lanes<T>& b) {
  constexpr int64_t size = Lanes<T>::count / kPieces, half = Width / 2;
  Lanes<T> halves;
  #pragma GCC unroll 4
  for (int64_t i = 0; i < kPieces; ++i) {
    const auto source = [&](int64_t piece) { return piece < kPieces ? a.pieces[piece] : b.pieces[piece - kPieces]; };
    if constexpr (half >= size) {
      const int64_t low = i * size / half * Width + i * size % half;
      halves.pieces[i] = source(low / size) + source((low + half) / size);
    } else {
      typename Piece<T>::places low, high;
      for (int64_t j = 0; j < size; ++j) {
        low[j] = j / half * Width + j % half;
        high[j] = low[j] + half;
      }
      const auto first = source(2 * i), second = source(2 * i + 1);
      halves.pieces[i] = __builtin_shuffle(first, second, low) + __builtin_shuffle(first, second, high);
    }
  }
  return halves;
}

// The sums of `Count` vectors with `Width` numbers each that are still to be added up, as one vector; `Count` at most
// `Width`, and with fewer there is as much left to be added up.
template <typename T, int Count, int64_t Width = Lanes<T>::count> inline Lanes<T> sums(const Lanes<T>* vectors) {
  if constexpr (Count == 1) {
    return vectors[0];
  } else {
    Lanes<T> halves[Count / 2];
    #pragma GCC unroll 16
    for (int i = 0; i < Count / 2; ++i) halves[i] = halve<T, Width>(vectors[2 * i], vectors[2 * i + 1]);
    return sums<T, Count / 2, Width / 2>(halves);
  }
}

template <typename T> inline T sum(const Lanes<T>& lanes) {
  T total[Lanes<T>::count];
  store(total, lanes);
  for (int64_t half = Lanes<T>::count / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) total[i] += total[i + half];
  return total[0];
}

}  // namespace
