// Activation functions with their first and second derivatives, on vectors.
//
// value(x), and the same with references that receive phi'(x), or phi'(x) and phi''(x).
// for_row(pre, body) calls body with the form of the function that a row of arguments needs.
#pragma once

#include "kernels/loops.h"

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
inline Vec<T> tanh_of(const Vec<T> &x) {
  return x.tanh();
}

#if defined(CPU_CAPABILITY_AVX512)
// Without function calls, to a few units in the last place: with e = exp(-2|x|) - 1 it is
// -e / (2 + e), with the sign of x. e = 2^n (1 + p) - 1 with integer n and p = exp(f) - 1 by its
// series, |f| <= ln(2) / 2. Beyond 20 (float: 10) it is 1.
inline Vec<double> tanh_of(const Vec<double> &x_) {
  const auto c = [](double v) { return _mm512_set1_pd(v); };
  const __m512d x = x_, sign = _mm512_and_pd(x, c(-0.0));
  // The operands' order lets a NaN pass.
  const __m512d y = _mm512_max_pd(c(-40.0), _mm512_mul_pd(_mm512_andnot_pd(c(-0.0), x), c(-2.0)));
  const __m512d n = _mm512_roundscale_pd(_mm512_mul_pd(y, c(1.4426950408889634)), _MM_FROUND_TO_NEAREST_INT);
  // ln(2) in two parts, the first one exact in products with n
  const __m512d f = _mm512_fnmadd_pd(n, c(1.9082149292705877e-10), _mm512_fnmadd_pd(n, c(0.69314718036912382), y));
  __m512d p = c(1.6059043836821613e-10);
  for (const double term : {2.08767569878681e-09, 2.505210838544172e-08, 2.7557319223985888e-07, 2.7557319223985893e-06, 2.4801587301587302e-05, 0.00019841269841269841, 0.0013888888888888889, 0.0083333333333333332, 0.041666666666666664, 0.16666666666666666, 0.5})
    p = _mm512_fmadd_pd(p, f, c(term));
  p = _mm512_fmadd_pd(_mm512_mul_pd(p, f), f, f);
  const __m512d power = _mm512_scalef_pd(c(1.0), n);
  const __m512d e = _mm512_fmadd_pd(power, p, _mm512_sub_pd(power, c(1.0)));
  const __m512d t = _mm512_div_pd(e, _mm512_add_pd(e, c(2.0)));  // of the other sign
  return _mm512_or_pd(_mm512_andnot_pd(c(-0.0), t), sign);
}

inline Vec<float> tanh_of(const Vec<float> &x_) {
  const auto c = [](float v) { return _mm512_set1_ps(v); };
  const __m512 x = x_, sign = _mm512_and_ps(x, c(-0.0f));
  const __m512 y = _mm512_max_ps(c(-20.0f), _mm512_mul_ps(_mm512_andnot_ps(c(-0.0f), x), c(-2.0f)));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(y, c(1.44269502f)), _MM_FROUND_TO_NEAREST_INT);
  const __m512 f = _mm512_fnmadd_ps(n, c(1.42860677e-6f), _mm512_fnmadd_ps(n, c(0.693145752f), y));
  __m512 p = c(0.000198412698f);
  for (const float term : {0.00138888889f, 0.00833333333f, 0.0416666667f, 0.166666667f, 0.5f})
    p = _mm512_fmadd_ps(p, f, c(term));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, f), f, f);
  const __m512 power = _mm512_scalef_ps(c(1.0f), n);
  const __m512 e = _mm512_fmadd_ps(power, p, _mm512_sub_ps(power, c(1.0f)));
  const __m512 t = _mm512_div_ps(e, _mm512_add_ps(e, c(2.0f)));
  return _mm512_or_ps(_mm512_andnot_ps(c(-0.0f), t), sign);
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

  Vec<T> operator()(const Vec<T> &x) const { return tanh_of(x); }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1) const {
    const auto t = tanh_of(x);
    d1 = Vec<T>(1) - t * t;
    return t;
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1, Vec<T> &d2) const {
    const auto t = tanh_of(x);
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
    const auto above = tanh_of(slope * (x - threshold)) + offset;
    return Vec<T>::blendv(silu(x), above, x >= threshold);
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1) const {
    const auto value = silu(x, d1), t = tanh_of(slope * (x - threshold)), mask = x >= threshold;
    d1 = Vec<T>::blendv(d1, slope * (Vec<T>(1) - t * t), mask);
    return Vec<T>::blendv(value, t + offset, mask);
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1, Vec<T> &d2) const {
    const auto value = silu(x, d1, d2), t = tanh_of(slope * (x - threshold)), mask = x >= threshold;
    const auto d = slope * (Vec<T>(1) - t * t);
    d1 = Vec<T>::blendv(d1, d, mask);
    d2 = Vec<T>::blendv(d2, Vec<T>(-2) * slope * t * d, mask);
    return Vec<T>::blendv(value, t + offset, mask);
  }

  Vec<T> threshold, offset{0}, slope{0};
  Silu<T> silu;
};

}  // namespace dpsim::kernels
