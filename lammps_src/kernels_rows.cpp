#include "kernels.h"
#include "kernels_loops.h"

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
  template void gather_rows(const T *, const int64_t *, int64_t, int64_t, T *);         \
  template void scatter_rows(const T *, const int64_t *, int64_t, int64_t, int64_t, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
