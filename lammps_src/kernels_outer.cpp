#include "kernels.h"
#include "kernels_loops.h"

namespace dpsim::kernels {

namespace {

// Row of g of an item: by its number, or by an index.
struct Own {
  int64_t operator()(int64_t m) const { return m; }
};
struct Indexed {
  const int64_t *index;
  int64_t operator()(int64_t m) const { return index[m]; }
};

template <typename T, typename At>
void sum_of(const T *h, const T *g, const At &at, const int64_t *ptr, int64_t S, int64_t K, T *out) {
  for_segments(S, 3 * ptr[S] * K, [&](int64_t t) {
    T *sum = out + 3 * t * K;
    std::fill(sum, sum + 3 * K, T(0));
    for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) {
      const Vec<T> hx(h[3 * m]), hy(h[3 * m + 1]), hz(h[3 * m + 2]);
      columns<T>(0, K, [&](int64_t c, int64_t n) {
        const auto v = Vec<T>::loadu(g + at(m) * K + c, n);
        at::vec::fmadd(hx, v, Vec<T>::loadu(sum + c, n)).store(sum + c, n);
        at::vec::fmadd(hy, v, Vec<T>::loadu(sum + K + c, n)).store(sum + K + c, n);
        at::vec::fmadd(hz, v, Vec<T>::loadu(sum + 2 * K + c, n)).store(sum + 2 * K + c, n);
      });
    }
  });
}

template <typename T, typename At>
void dot_of(const T *t_, const T *g, const At &at, const int64_t *ptr, int64_t S, int64_t K, T *out) {
  const auto add = [](const Vec<T> &a, const Vec<T> &b) { return a + b; };
  for_segments(S, 3 * ptr[S] * K, [&](int64_t t) {
    const T *row = t_ + 3 * t * K;
    for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) {
      Vec<T> x(0), y(0), z(0);
      columns<T>(0, K, [&](int64_t c, int64_t n) {
        const auto v = Vec<T>::loadu(g + at(m) * K + c, n);
        x = at::vec::fmadd(Vec<T>::loadu(row + c, n), v, x);
        y = at::vec::fmadd(Vec<T>::loadu(row + K + c, n), v, y);
        z = at::vec::fmadd(Vec<T>::loadu(row + 2 * K + c, n), v, z);
      });
      out[3 * m] = at::vec::vec_reduce_all<T>(add, x);
      out[3 * m + 1] = at::vec::vec_reduce_all<T>(add, y);
      out[3 * m + 2] = at::vec::vec_reduce_all<T>(add, z);
    }
  });
}

}  // namespace

template <typename T>
void outer_sum(const T *h, const T *g, const int64_t *index, const int64_t *ptr, int64_t S, int64_t K, T *out) {
  index == nullptr ? sum_of(h, g, Own{}, ptr, S, K, out) : sum_of(h, g, Indexed{index}, ptr, S, K, out);
}

template <typename T>
void outer_dot(const T *t, const T *g, const int64_t *index, const int64_t *ptr, int64_t S, int64_t K, T *out) {
  index == nullptr ? dot_of(t, g, Own{}, ptr, S, K, out) : dot_of(t, g, Indexed{index}, ptr, S, K, out);
}

template <typename T>
void outer_mix(const T *t_, const T *h, const int64_t *ptr, int64_t S, int64_t K, T *out) {
  for_segments(S, 3 * ptr[S] * K, [&](int64_t t) {
    const T *row = t_ + 3 * t * K;
    for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) {
      const Vec<T> hx(h[3 * m]), hy(h[3 * m + 1]), hz(h[3 * m + 2]);
      columns<T>(0, K, [&](int64_t c, int64_t n) {
        auto v = hx * Vec<T>::loadu(row + c, n);
        v = at::vec::fmadd(hy, Vec<T>::loadu(row + K + c, n), v);
        v = at::vec::fmadd(hz, Vec<T>::loadu(row + 2 * K + c, n), v);
        v.store(out + m * K + c, n);
      });
    }
  });
}

template <typename T>
void outer_mix_into(const T *t_, const T *h, const int64_t *index, const int64_t *ptr, int64_t S, int64_t R, int64_t K,
                    T *out) {
  for_rows(R, ptr[S], K, [&](int64_t begin, int64_t end) {
    std::fill(out + begin * K, out + end * K, T(0));
    for (int64_t t = 0; t < S; ++t) {
      const T *row = t_ + 3 * t * K;
      for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) {
        if (index[m] < begin || index[m] >= end) continue;
        const Vec<T> hx(h[3 * m]), hy(h[3 * m + 1]), hz(h[3 * m + 2]);
        T *to = out + index[m] * K;
        columns<T>(0, K, [&](int64_t c, int64_t n) {
          auto v = at::vec::fmadd(hx, Vec<T>::loadu(row + c, n), Vec<T>::loadu(to + c, n));
          v = at::vec::fmadd(hy, Vec<T>::loadu(row + K + c, n), v);
          v = at::vec::fmadd(hz, Vec<T>::loadu(row + 2 * K + c, n), v);
          v.store(to + c, n);
        });
      }
    }
  });
}

#define DPSIM_INSTANTIATE(T)                                                                                  \
  template void outer_sum(const T *, const T *, const int64_t *, const int64_t *, int64_t, int64_t, T *);     \
  template void outer_dot(const T *, const T *, const int64_t *, const int64_t *, int64_t, int64_t, T *);     \
  template void outer_mix(const T *, const T *, const int64_t *, int64_t, int64_t, T *);                      \
  template void outer_mix_into(const T *, const T *, const int64_t *, const int64_t *, int64_t, int64_t, int64_t, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
