// Activation functions with their first and second derivatives, on vectors.
//
// value(x), and the same with references that receive phi'(x), or phi'(x) and phi''(x).
#pragma once

#include "kernels_loops.h"

#include <cmath>

namespace dpsim::kernels {

template <typename T>
struct Silu {
  explicit Silu(T) {}

  static Vec<T> sigmoid(const Vec<T> &x) { return Vec<T>(1) / (Vec<T>(1) + x.neg().exp()); }

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
// the offset that make value and first derivative continuous. Few numbers pass the threshold, so
// the upper branch is computed for a vector only when it has one.
template <typename T>
struct Silut {
  explicit Silut(T threshold_) : threshold(threshold_), silu(threshold_) {
    const T p = T(1) / (T(1) + std::exp(-threshold_));
    offset = Vec<T>(threshold_ * p);
    slope = Vec<T>(p + threshold_ * p * (T(1) - p));
  }

  static bool any(const Vec<T> &mask) { return mask.zero_mask() != (1 << Vec<T>::size()) - 1; }

  Vec<T> operator()(const Vec<T> &x) const {
    const auto value = silu(x), above = x >= threshold;
    if (!any(above)) return value;
    return Vec<T>::blendv(value, (slope * (x - threshold)).tanh() + offset, above);
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1) const {
    const auto value = silu(x, d1), above = x >= threshold;
    if (!any(above)) return value;
    const auto t = (slope * (x - threshold)).tanh();
    d1 = Vec<T>::blendv(d1, slope * (Vec<T>(1) - t * t), above);
    return Vec<T>::blendv(value, t + offset, above);
  }

  Vec<T> operator()(const Vec<T> &x, Vec<T> &d1, Vec<T> &d2) const {
    const auto value = silu(x, d1, d2), above = x >= threshold;
    if (!any(above)) return value;
    const auto t = (slope * (x - threshold)).tanh(), d = slope * (Vec<T>(1) - t * t);
    d1 = Vec<T>::blendv(d1, d, above);
    d2 = Vec<T>::blendv(d2, Vec<T>(-2) * slope * t * d, above);
    return Vec<T>::blendv(value, t + offset, above);
  }

  Vec<T> threshold, offset{0}, slope{0};
  Silu<T> silu;
};

}  // namespace dpsim::kernels
