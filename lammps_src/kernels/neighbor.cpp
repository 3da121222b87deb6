#include "kernels/kernels.h"
#include "kernels/matrix.h"

namespace dpsim::kernels {

template <typename T>
void neighbor_sum(const T *h, const T *g, const int64_t *index, const int64_t *ptr, int64_t S, int64_t C, T *out) {
  for_segments(S, 3 * ptr[S] * C, [&](int64_t t) {
    T *sum = out + 3 * t * C;
    std::fill(sum, sum + 3 * C, T(0));
    for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) {
      const Vec<T> hx(h[3 * m]), hy(h[3 * m + 1]), hz(h[3 * m + 2]);
      columns<T>(0, C, [&](int64_t c, int64_t n) {
        const auto v = Vec<T>::loadu(g + index[m] * C + c, n);
        at::vec::fmadd(hx, v, Vec<T>::loadu(sum + c, n)).store(sum + c, n);
        at::vec::fmadd(hy, v, Vec<T>::loadu(sum + C + c, n)).store(sum + C + c, n);
        at::vec::fmadd(hz, v, Vec<T>::loadu(sum + 2 * C + c, n)).store(sum + 2 * C + c, n);
      });
    }
  });
}

template <typename T>
void neighbor_dot(const T *t_, const T *g, const int64_t *index, const int64_t *ptr, int64_t S, int64_t C, T *out) {
  for_segments(S, 3 * ptr[S] * C, [&](int64_t t) {
    const T *row = t_ + 3 * t * C;
    for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) {
      Vec<T> x(0), y(0), z(0);
      columns<T>(0, C, [&](int64_t c, int64_t n) {
        const auto v = Vec<T>::loadu(g + index[m] * C + c, n);
        x = at::vec::fmadd(Vec<T>::loadu(row + c, n), v, x);
        y = at::vec::fmadd(Vec<T>::loadu(row + C + c, n), v, y);
        z = at::vec::fmadd(Vec<T>::loadu(row + 2 * C + c, n), v, z);
      });
      out[3 * m] = total(x);
      out[3 * m + 1] = total(y);
      out[3 * m + 2] = total(z);
    }
  });
}

template <typename T>
void neighbor_mix(const T *t_, const T *h, const int64_t *index, const int64_t *ptr, int64_t S, int64_t R, int64_t C,
                  T *out) {
  for_rows(R, ptr[S], C, [&](int64_t begin, int64_t end) {
    std::fill(out + begin * C, out + end * C, T(0));
    for (int64_t t = 0; t < S; ++t) {
      const T *row = t_ + 3 * t * C;
      for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) {
        if (index[m] < begin || index[m] >= end) continue;
        const Vec<T> hx(h[3 * m]), hy(h[3 * m + 1]), hz(h[3 * m + 2]);
        T *to = out + index[m] * C;
        columns<T>(0, C, [&](int64_t c, int64_t n) {
          auto v = at::vec::fmadd(hx, Vec<T>::loadu(row + c, n), Vec<T>::loadu(to + c, n));
          v = at::vec::fmadd(hy, Vec<T>::loadu(row + C + c, n), v);
          v = at::vec::fmadd(hz, Vec<T>::loadu(row + 2 * C + c, n), v);
          v.store(to + c, n);
        });
      }
    }
  });
}

#define DPSIM_INSTANTIATE(T)                                                                                     \
  template void neighbor_sum(const T *, const T *, const int64_t *, const int64_t *, int64_t, int64_t, T *);     \
  template void neighbor_dot(const T *, const T *, const int64_t *, const int64_t *, int64_t, int64_t, T *);     \
  template void neighbor_mix(const T *, const T *, const int64_t *, const int64_t *, int64_t, int64_t, int64_t, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
