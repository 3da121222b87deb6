#include "kernels/kernels.h"
#include "kernels/matrix.h"

#include <vector>

namespace dpsim::kernels {
namespace {

// out (n, K) = g (n, C) times the transpose of t (K, C).
template <int K, typename T>
void dot_rows(const T *t, const T *g, int64_t n, int64_t C, T *out) {
  for (int64_t m = 0; m < n; ++m, g += C, out += K) {
    Vec<T> sum[K];
    for (int k = 0; k < K; ++k) sum[k] = Vec<T>(0);
    columns<T>(0, C, [&](int64_t c, int64_t count) {
      const auto v = Vec<T>::loadu(g + c, count);
      for (int k = 0; k < K; ++k) sum[k] = at::vec::fmadd(Vec<T>::loadu(t + k * C + c, count), v, sum[k]);
    });
    for (int k = 0; k < K; ++k) out[k] = total(sum[k]);
  }
}

}  // namespace

template <typename T>
void outer_sum(const T *h, const T *g, const int64_t *ptr, int64_t S, int64_t K, int64_t C, T *out) {
  for_segments(S, K * ptr[S] * C, [&](int64_t t) {
    const int64_t m = ptr[t], n = ptr[t + 1] - m;
    product<T>({h + m * K, 1, K}, K, n, g + m * C, C, C, out + t * K * C, C, false);
  });
}

template <typename T>
void outer_dot(const T *t_, const T *g, const int64_t *ptr, int64_t S, int64_t K, int64_t C, T *out) {
  for_segments(S, K * ptr[S] * C, [&](int64_t t) {
    const int64_t m = ptr[t], n = ptr[t + 1] - m;
    const T *rows = t_ + t * K * C, *from = g + m * C;
    T *to = out + m * K;
    switch (K) {
      case 1: return dot_rows<1>(rows, from, n, C, to);
      case 2: return dot_rows<2>(rows, from, n, C, to);
      case 3: return dot_rows<3>(rows, from, n, C, to);
      case 4: return dot_rows<4>(rows, from, n, C, to);
      default: break;
    }
    if (n == 0) return;
    thread_local std::vector<T> turned;
    turned.resize(C * whole_vectors<T>(K));
    pack<T>({rows, 1, C}, C, K, turned.data());
    product<T>({from, C, 1}, n, C, turned.data(), whole_vectors<T>(K), K, to, K, false);
  });
}

template <typename T>
void outer_mix(const T *t_, const T *h, const int64_t *ptr, int64_t S, int64_t K, int64_t C, T *out) {
  for_segments(S, K * ptr[S] * C, [&](int64_t t) {
    const int64_t m = ptr[t], n = ptr[t + 1] - m;
    product<T>({h + m * K, K, 1}, n, K, t_ + t * K * C, C, C, out + m * C, C, false);
  });
}

#define DPSIM_INSTANTIATE(T)                                                                           \
  template void outer_sum(const T *, const T *, const int64_t *, int64_t, int64_t, int64_t, T *);      \
  template void outer_dot(const T *, const T *, const int64_t *, int64_t, int64_t, int64_t, T *);      \
  template void outer_mix(const T *, const T *, const int64_t *, int64_t, int64_t, int64_t, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
