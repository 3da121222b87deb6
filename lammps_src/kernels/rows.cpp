#include "kernels/kernels.h"
#include "kernels/loops.h"

#include <cstring>

namespace dpsim::kernels {

template <typename T>
void segment_sum(const T *x, const int64_t *ptr, int64_t S, int64_t K, T *out) {
  for_segments(S, ptr[S] * K, [&](int64_t t) {
    T *sum = out + t * K;
    std::fill(sum, sum + K, T(0));
    for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) add_row(sum, x + m * K, K);
  });
}

template <typename T>
void segment_expand(const T *y, const int64_t *ptr, int64_t S, int64_t K, T *out) {
  for_segments(S, ptr[S] * K, [&](int64_t t) {
    for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) std::copy_n(y + t * K, K, out + m * K);
  });
}

template <typename T>
void segment_max(const T *x, const int64_t *ptr, int64_t S, int64_t K, T *out) {
  for_segments(S, ptr[S] * K, [&](int64_t t) {
    T *most = out + t * K;
    if (ptr[t] == ptr[t + 1]) {
      std::fill(most, most + K, T(0));
      return;
    }
    std::copy_n(x + ptr[t] * K, K, most);
    for (int64_t m = ptr[t] + 1; m < ptr[t + 1]; ++m)
      columns<T>(0, K, [&](int64_t c, int64_t n) {
        at::vec::maximum(Vec<T>::loadu(most + c, n), Vec<T>::loadu(x + m * K + c, n)).store(most + c, n);
      });
  });
}

template <typename T>
void gather_rows(const T *x, const int64_t *index, int64_t M, int64_t K, T *out) {
  for_segments(M, M * K, [&](int64_t m) { std::copy_n(x + index[m] * K, K, out + m * K); });
}

template <typename T>
void scatter_rows(const T *g, const int64_t *index, int64_t M, int64_t R, int64_t K, T *out) {
  scatter_into(g, index, M, R, K, out);
}

#define DPSIM_INSTANTIATE(T)                                                            \
  template void segment_sum(const T *, const int64_t *, int64_t, int64_t, T *);         \
  template void segment_expand(const T *, const int64_t *, int64_t, int64_t, T *);      \
  template void segment_max(const T *, const int64_t *, int64_t, int64_t, T *);         \
  template void gather_rows(const T *, const int64_t *, int64_t, int64_t, T *);         \
  template void scatter_rows(const T *, const int64_t *, int64_t, int64_t, int64_t, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
