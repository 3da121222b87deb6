// Checks of the arguments of dpsim's operators: sizes and indices once at the door; kernels trust them.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#define DPSIM_FLOAT(TYPE, NAME, ...) AT_DISPATCH_FLOATING_TYPES(TYPE, NAME, __VA_ARGS__)

namespace dpsim {

inline at::Tensor rows(const char *name, const char *what, const at::Tensor &t, const at::Tensor &like, at::IntArrayRef sizes) {
  TORCH_CHECK(t.scalar_type() == like.scalar_type() && t.sizes() == sizes, name, ": ", what, " is ", t.scalar_type(),
              t.sizes(), ", expected ", like.scalar_type(), sizes);
  return t.contiguous();
}

// The same of a tensor that may be absent; undefined then.
inline at::Tensor given(const char *name, const char *what, const std::optional<at::Tensor> &t, const at::Tensor &like,
                        at::IntArrayRef sizes) {
  return t.has_value() && t->defined() ? rows(name, what, *t, like, sizes) : at::Tensor();
}

template <typename T>
const T *data_or_null(const at::Tensor &t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

inline at::Tensor check_ptr(const char *name, const at::Tensor &ptr_, int64_t M, int64_t S) {
  TORCH_CHECK(ptr_.scalar_type() == at::kLong && ptr_.dim() == 1 && ptr_.size(0) == S + 1, name, ": ptr is ",
              ptr_.scalar_type(), ptr_.sizes(), ", expected int64 (", S + 1, ") for ", S, " segments");
  const at::Tensor ptr = ptr_.contiguous();
  const int64_t *p = ptr.const_data_ptr<int64_t>();
  bool ascending = p[0] == 0;
  for (int64_t t = 0; t < S; ++t) ascending &= p[t] <= p[t + 1];
  TORCH_CHECK(ascending && p[S] == M, name, ": ptr must ascend from 0 to the number of items (", M, "), it ends at ", p[S]);
  return ptr;
}

inline at::Tensor check_index(const char *name, const at::Tensor &index_, int64_t M, int64_t R) {
  TORCH_CHECK(index_.scalar_type() == at::kLong && index_.dim() == 1 && index_.size(0) == M, name, ": index is ",
              index_.scalar_type(), index_.sizes(), ", expected int64 (", M, ")");
  const at::Tensor index = index_.contiguous();
  const int64_t *i = index.const_data_ptr<int64_t>();
  bool outside = false;
  for (int64_t m = 0; m < M; ++m) outside |= static_cast<uint64_t>(i[m]) >= static_cast<uint64_t>(R);
  TORCH_CHECK(!outside, name, ": an index is outside 0..", R - 1);
  return index;
}

}  // namespace dpsim
