// Activation functions with their first and second derivatives, on vectors.
//
// value(x), and the same with references that receive phi'(x), or phi'(x) and phi''(x).
// for_row(pre, body) calls body with the form of the function that a row of arguments needs.
#pragma once

#include "kernels_loops.h"

#include <cmath>

namespace dpsim::kernels {

template <typename T>
inline Vec<T> sigmoid(const Vec<T> &x) {
  return Vec<T>(1) / (Vec<T>(1) + x.neg().exp());
}

#if defined(CPU_CAPABILITY_AVX512)
// The same without function call and division, to 3e-7: the loops around it then keep their
// constants in registers. exp(-x) = 2^n 2^f with integer n and |f| <= 1/2; 2^f by a polynomial
// (least squares in the relative error, 2e-9); reciprocal by one Newton step.
inline Vec<float> sigmoid(const Vec<float> &x_) {
  const auto c = [](float v) { return _mm512_set1_ps(v); };
  const __m512 x = _mm512_max_ps(x_, c(-87.0f));  // exp(-x) stays finite
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, c(-1.44269502f)), _MM_FROUND_TO_NEAREST_INT);
  // -log2(e) in two parts
  const __m512 f = _mm512_fmadd_ps(x, c(-1.92596303e-8f), _mm512_fmsub_ps(x, c(-1.44269502f), n));
  __m512 p = _mm512_fmadd_ps(c(1.53458110e-4f), f, c(1.33999309e-3f));
  p = _mm512_fmadd_ps(p, f, c(9.61848907e-3f));
  p = _mm512_fmadd_ps(p, f, c(5.55032864e-2f));
  p = _mm512_fmadd_ps(p, f, c(2.40226462e-1f));
  p = _mm512_fmadd_ps(p, f, c(6.93147182e-1f));
  p = _mm512_fmadd_ps(p, f, c(1.0f));
  const __m512 y = _mm512_add_ps(_mm512_scalef_ps(p, n), c(1.0f));
  const __m512 r = _mm512_rcp14_ps(y);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(y, r, c(2.0f)));
}
#endif

template <typename T>
struct Silu {
  explicit Silu(T) {}

  template <typename Row, typename F>
  void for_row(const Row &, const F &body) const {
    body(*this);
  }

  Vec<T> operator()(const Vec<T> &x) const { return x * sigmoid(x); }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1) const {
    const auto p = sigmoid(x), value = x * p;
    d1 = p + value * (Vec<T>(1) - p);  // p (1 + x (1 - p))
    return value;
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1, Vec<T> &d2) const {
    const auto p = sigmoid(x), value = x * p, q = Vec<T>(1) - p;
    d1 = p + value * q;
    d2 = p * q * (Vec<T>(2) + x * (q - p));
    return value;
  }
};

template <typename T>
struct Tanh {
  explicit Tanh(T) {}

  template <typename Row, typename F>
  void for_row(const Row &, const F &body) const {
    body(*this);
  }

  Vec<T> operator()(const Vec<T> &x) const { return x.tanh(); }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1) const {
    const auto t = x.tanh();
    d1 = Vec<T>(1) - t * t;
    return t;
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1, Vec<T> &d2) const {
    const auto t = x.tanh();
    d1 = Vec<T>(1) - t * t;
    d2 = Vec<T>(-2) * t * d1;
    return t;
  }
};

// silu below the threshold, tanh(slope (x - threshold)) + offset from there on, with the slope and
// the offset that make value and first derivative continuous. Few numbers reach the threshold:
// rows without one take silu, and a loop without the call of tanh.
template <typename T>
struct Silut {
  explicit Silut(T threshold_) : threshold(threshold_), silu(threshold_) {
    const T p = T(1) / (T(1) + std::exp(-threshold_));
    offset = Vec<T>(threshold_ * p);
    slope = Vec<T>(p + threshold_ * p * (T(1) - p));
  }

  template <typename Row, typename F>
  void for_row(const Row &pre, const F &body) const {
    Vec<T> highest = threshold - Vec<T>(1);
    pre.each([&](const Vec<T> &x) { highest = at::vec::maximum(highest, x); });
    // Also true for NaN, which passes through either way.
    if ((highest < threshold).zero_mask() != 0) {
      body(*this);
    } else {
      body(silu);
    }
  }

  Vec<T> operator()(const Vec<T> &x) const {
    const auto above = (slope * (x - threshold)).tanh() + offset;
    return Vec<T>::blendv(silu(x), above, x >= threshold);
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1) const {
    const auto value = silu(x, d1), t = (slope * (x - threshold)).tanh(), mask = x >= threshold;
    d1 = Vec<T>::blendv(d1, slope * (Vec<T>(1) - t * t), mask);
    return Vec<T>::blendv(value, t + offset, mask);
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1, Vec<T> &d2) const {
    const auto value = silu(x, d1, d2), t = (slope * (x - threshold)).tanh(), mask = x >= threshold;
    const auto d = slope * (Vec<T>(1) - t * t);
    d1 = Vec<T>::blendv(d1, d, mask);
    d2 = Vec<T>::blendv(d2, Vec<T>(-2) * slope * t * d, mask);
    return Vec<T>::blendv(value, t + offset, mask);
  }

  Vec<T> threshold, offset{0}, slope{0};
  Silu<T> silu;
};

}  // namespace dpsim::kernels
