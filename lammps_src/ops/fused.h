// What the fused operators and their derivatives have in common: their arguments, checked and
// contiguous, and cotangents that may be absent.
#pragma once

#include "kernels/kernels.h"
#include "ops/checks.h"

#include <ATen/Functions.h>

#include <optional>

namespace dpsim {

// Arguments but for what is given for each item. `x` stands for anything of the right type.
struct FusedArguments {
  FusedArguments(const char *name, const at::Tensor &x, int64_t M_, int64_t C_, const at::Tensor &s_,
                 const at::Tensor &b_, const at::Tensor &w_, const at::Tensor &ptr_, const at::Tensor &b_index_,
                 int64_t c1_, int64_t activation_, double threshold_, const std::optional<at::Tensor> &scale_ = {})
      : options(x.options()), M(M_), C(C_), c1(c1_), activation(activation_), threshold(threshold_) {
    TORCH_CHECK(s_.dim() == 2 && b_.dim() == 2, name, ": s and b must have two dimensions");
    S = s_.size(0), B = b_.size(0);
    TORCH_CHECK(0 <= c1 && c1 <= C, name, ": c1 is ", c1, ", expected 0..", C);
    TORCH_CHECK(0 <= activation && activation <= 2, name, ": activation is ", activation, ", expected 0, 1 or 2");
    ptr = check_ptr(name, ptr_, M, S);
    s = rows(name, "s", s_, x, {S, C});
    b = rows(name, "b", b_, x, {B, C});
    w = rows(name, "w", w_, x, {M});
    b_index = check_index(name, b_index_, M, B);
    scale = scale_.has_value() ? rows(name, "scale", *scale_, x, {C - c1}) : at::ones({C - c1}, options);
  }

  // x is that of item `first` and those after it.
  template <typename T>
  kernels::Fused<T> plain(const T *x, int64_t first = 0) const {
    return {x, s.const_data_ptr<T>(), b.const_data_ptr<T>(), w.const_data_ptr<T>(), scale.const_data_ptr<T>(),
            ptr.const_data_ptr<int64_t>(), b_index.const_data_ptr<int64_t>(), C, c1, first,
            static_cast<kernels::Activation>(activation), static_cast<T>(threshold)};
  }

  at::Tensor empty(at::IntArrayRef sizes) const { return at::empty(sizes, options); }

  at::TensorOptions options;
  at::Tensor s, b, w, scale, ptr, b_index;
  int64_t M, S = 0, B = 0, C, c1, activation;
  double threshold;
};

inline bool is_given(const std::optional<at::Tensor> &t) { return t.has_value() && t->defined(); }

// A cotangent that may be absent; then one row of zeros stands for all of its rows.
struct Cotangent {
  Cotangent(const char *name, const char *what, const std::optional<at::Tensor> &t, const at::Tensor &like,
            at::IntArrayRef sizes) {
    const int64_t row = c10::multiply_integers(sizes.slice(1));
    if (is_given(t)) {
      value = rows(name, what, *t, like, sizes);
      stride = row;
    } else {
      value = at::zeros({row}, like.options());
    }
  }

  template <typename T>
  kernels::Rows<T> plain() const {
    return {value.const_data_ptr<T>(), stride};
  }

  at::Tensor value;
  int64_t stride = 0;
};

}  // namespace dpsim
