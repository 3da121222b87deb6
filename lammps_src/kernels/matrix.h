// Layouts of small matrices with whole vectors in their rows.
#pragma once

#include "kernels/kernels.h"
#include "kernels/loops.h"

#include <cstdint>

namespace dpsim::kernels {

template <typename T>
constexpr int64_t whole_vectors(int64_t n) {
  return (n + Vec<T>::size() - 1) / Vec<T>::size() * Vec<T>::size();
}

// Sum of the numbers of a vector.
template <typename T>
inline T total(const Vec<T> &v) {
  return at::vec::vec_reduce_all<T>([](const Vec<T> &a, const Vec<T> &b) { return a + b; }, v);
}
#if defined(CPU_CAPABILITY_AVX512)
inline float total(const Vec<float> &v) { return _mm512_reduce_add_ps(v); }
inline double total(const Vec<double> &v) { return _mm512_reduce_add_pd(v); }
#endif

// Copies a matrix, whose rows or columns are contiguous, to rows of whole vectors with zeros behind.
template <typename T>
void pack(const Matrix<T> &from, int64_t rows, int64_t cols, T *to);

}  // namespace dpsim::kernels
