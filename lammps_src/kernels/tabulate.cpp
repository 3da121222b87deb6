#include "kernels/kernels.h"
#include "kernels/matrix.h"

#include <cmath>

namespace dpsim::kernels {
namespace {

constexpr int kTerms = 6;  // coefficients of a quintic

// Where a number lies: in which interval, how far from its lower end, and how far outside the table.
struct Place {
  int64_t row;
  double u, beyond;
};

inline Place locate(const TableGrid &g, double x) {
  // Not a number goes to the first interval and stays not a number through `beyond`.
  const double inside = x > g.end ? g.end : (x >= g.start ? x : g.start);
  const bool above = inside >= g.upper, below = inside < g.lower;
  const int64_t count = below ? g.below : (above ? g.above : g.inside);
  const int64_t first = below ? 0 : (above ? g.below + g.inside : g.below);
  const double from = below ? g.start : (above ? g.upper : g.lower);
  const double to = below ? g.lower : (above ? g.end : g.upper);
  if (count == 0) {  // the end of a table without a coarse part above
    const double h = (g.upper - g.lower) / static_cast<double>(g.inside);
    return {g.below + g.inside - 1, h, x - inside};
  }
  const double h = (to - from) / static_cast<double>(count);
  const auto number = std::min(static_cast<int64_t>((inside - from) / h), count - 1);
  return {first + number, inside - (from + static_cast<double>(number) * h), x - inside};
}

// Factors of the coefficients in the derivative of the given order; beyond the table a straight line.
template <typename T>
inline void factors(const Place &at, int64_t order, T *w) {
  double power = 1.0;
  for (int64_t j = 0; j < kTerms; ++j) {
    double falling = 1.0;
    for (int64_t k = 0; k < order; ++k) falling *= static_cast<double>(j - k);
    w[j] = j < order ? T(0) : static_cast<T>(falling * power);
    if (j >= order) power *= at.u;
  }
  if (at.beyond == 0.0) return;
  if (order > 1) std::fill(w, w + kTerms, T(0));
  if (order > 0) return;
  double slope = at.beyond;
  for (int64_t j = 1; j < kTerms; ++j, slope *= at.u) w[j] += static_cast<T>(static_cast<double>(j) * slope);
}

template <typename F>
inline void for_items(int64_t E, int64_t M, const F &f) {
  const int64_t grain = std::max<int64_t>(1, kTaskSize / std::max<int64_t>(kTerms * M, 1));
  at::parallel_for(0, E, grain, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) f(e);
  });
}

template <typename T>
inline Vec<T> spline(const T *row, const T *w, int64_t order, int64_t M, int64_t c, int64_t n) {
  Vec<T> sum(0);
  for (int64_t j = order; j < kTerms; ++j) sum = at::vec::fmadd(Vec<T>(w[j]), Vec<T>::loadu(row + j * M + c, n), sum);
  return sum;
}

}  // namespace

template <typename T>
void tabulate(const T *x, const T *table, const TableGrid &grid, int64_t order, int64_t E, int64_t M, T *out) {
  for_items(E, M, [&](int64_t e) {
    const Place at = locate(grid, static_cast<double>(x[e]));
    const T *row = table + at.row * kTerms * M;
    T w[kTerms];
    factors(at, order, w);
    columns<T>(0, M, [&](int64_t c, int64_t n) { spline(row, w, order, M, c, n).store(out + e * M + c, n); });
  });
}

template <typename T>
void tabulate_dot(const T *x, const T *table, const T *g, const TableGrid &grid, int64_t order, int64_t E, int64_t M,
                  T *out) {
  for_items(E, M, [&](int64_t e) {
    const Place at = locate(grid, static_cast<double>(x[e]));
    const T *row = table + at.row * kTerms * M;
    T w[kTerms];
    factors(at, order, w);
    Vec<T> sum(0);
    columns<T>(0, M, [&](int64_t c, int64_t n) {
      sum = at::vec::fmadd(Vec<T>::loadu(g + e * M + c, n), spline(row, w, order, M, c, n), sum);
    });
    out[e] = total(sum);
  });
}

namespace {

// Where an item lies, and the factors of the coefficients in so many derivatives.
template <int Orders, typename T>
struct Item {
  Item(const TableItems<T> &items, int64_t m) {
    const Place at = locate(items.grid, static_cast<double>(items.x[m]));
    coefficients = items.table + at.row * kTerms * items.C;
    for (int order = 0; order < Orders; ++order) factors(at, order, w[order]);
  }

  // f[order] for all functions of a vector.
  void at(int64_t C, int64_t c, int64_t n, Vec<T> *f) const {
    for (int order = 0; order < Orders; ++order) f[order] = Vec<T>(0);
    for (int64_t j = 0; j < kTerms; ++j) {
      const auto v = Vec<T>::loadu(coefficients + j * C + c, n);
      for (int order = 0; order < Orders; ++order)
        if (j >= order) f[order] = at::vec::fmadd(Vec<T>(w[order][j]), v, f[order]);
    }
  }

  const T *coefficients;
  T w[Orders][kTerms];
};

template <int Rows, typename T>
void sum_rows(const TableItems<T> &items, T *out) {
  const int64_t C = items.C;
  for_segments(items.S, kTerms * items.ptr[items.S] * C, [&](int64_t t) {
    T *sum = out + t * Rows * C;
    std::fill(sum, sum + Rows * C, T(0));
    for (int64_t m = items.ptr[t]; m < items.ptr[t + 1]; ++m) {
      const Item<1, T> item(items, m);
      columns<T>(0, C, [&](int64_t c, int64_t n) {
        Vec<T> f;
        item.at(C, c, n, &f);
        for (int k = 0; k < Rows; ++k) {
          T *to = sum + k * C + c;
          at::vec::fmadd(Vec<T>(items.r[m * Rows + k]), f, Vec<T>::loadu(to, n)).store(to, n);
        }
      });
    }
  });
}

template <int Rows, typename T>
void sum_rows_backward(const TableItems<T> &items, const T *t_, T *dx, T *dr) {
  const int64_t C = items.C;
  for_segments(items.S, kTerms * items.ptr[items.S] * C, [&](int64_t t) {
    for (int64_t m = items.ptr[t]; m < items.ptr[t + 1]; ++m) {
      const Item<2, T> item(items, m);
      Vec<T> by_x(0), by_r[Rows];
      for (auto &one : by_r) one = Vec<T>(0);
      columns<T>(0, C, [&](int64_t c, int64_t n) {
        Vec<T> f[2], along(0);
        item.at(C, c, n, f);
        for (int k = 0; k < Rows; ++k) {
          const auto v = Vec<T>::loadu(t_ + (t * Rows + k) * C + c, n);
          by_r[k] = at::vec::fmadd(v, f[0], by_r[k]);
          along = at::vec::fmadd(Vec<T>(items.r[m * Rows + k]), v, along);
        }
        by_x = at::vec::fmadd(along, f[1], by_x);
      });
      dx[m] = total(by_x);
      for (int k = 0; k < Rows; ++k) dr[m * Rows + k] = total(by_r[k]);
    }
  });
}

template <int Rows, typename T>
void sum_rows_double_backward(const TableItems<T> &items, const T *ux, const T *ur, const T *t_, T *dt, T *dx, T *dr) {
  const int64_t C = items.C;
  for_segments(items.S, 2 * kTerms * items.ptr[items.S] * C, [&](int64_t t) {
    T *sum = dt + t * Rows * C;
    std::fill(sum, sum + Rows * C, T(0));
    for (int64_t m = items.ptr[t]; m < items.ptr[t + 1]; ++m) {
      const Item<3, T> item(items, m);
      const T weight = ux ? ux[m] : T(0);
      Vec<T> by_x(0), by_r[Rows];
      for (auto &one : by_r) one = Vec<T>(0);
      columns<T>(0, C, [&](int64_t c, int64_t n) {
        Vec<T> f[3], straight(0), along(0);
        item.at(C, c, n, f);
        for (int k = 0; k < Rows; ++k) {
          const auto v = Vec<T>::loadu(t_ + (t * Rows + k) * C + c, n);
          const Vec<T> r(items.r[m * Rows + k] * weight), u(ur ? ur[m * Rows + k] : T(0));
          by_r[k] = at::vec::fmadd(v, f[1], by_r[k]);
          along = at::vec::fmadd(r, v, along);
          straight = at::vec::fmadd(u, v, straight);
          T *to = sum + k * C + c;
          at::vec::fmadd(r, f[1], at::vec::fmadd(u, f[0], Vec<T>::loadu(to, n))).store(to, n);
        }
        by_x = at::vec::fmadd(straight, f[1], at::vec::fmadd(along, f[2], by_x));
      });
      dx[m] = total(by_x);
      for (int k = 0; k < Rows; ++k) dr[m * Rows + k] = total(by_r[k]) * weight;
    }
  });
}

// f with the number of rows as a constant.
template <typename F>
void with_rows(int64_t K, const F &f) {
  static_assert(kTableRows == 4);
  switch (K) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    default: return f.template operator()<4>();
  }
}

}  // namespace

template <typename T>
void tabulate_sum(const TableItems<T> &items, T *out) {
  with_rows(items.K, [&]<int Rows>() { sum_rows<Rows>(items, out); });
}

template <typename T>
void tabulate_sum_backward(const TableItems<T> &items, const T *t, T *dx, T *dr) {
  with_rows(items.K, [&]<int Rows>() { sum_rows_backward<Rows>(items, t, dx, dr); });
}

template <typename T>
void tabulate_sum_double_backward(const TableItems<T> &items, const T *ux, const T *ur, const T *t, T *dt, T *dx,
                                  T *dr) {
  with_rows(items.K, [&]<int Rows>() { sum_rows_double_backward<Rows>(items, ux, ur, t, dt, dx, dr); });
}

#define DPSIM_INSTANTIATE(T)                                                                                        \
  template void tabulate(const T *, const T *, const TableGrid &, int64_t, int64_t, int64_t, T *);                  \
  template void tabulate_dot(const T *, const T *, const T *, const TableGrid &, int64_t, int64_t, int64_t, T *);   \
  template void tabulate_sum(const TableItems<T> &, T *);                                                           \
  template void tabulate_sum_backward(const TableItems<T> &, const T *, T *, T *);                                  \
  template void tabulate_sum_double_backward(const TableItems<T> &, const T *, const T *, const T *, T *, T *, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
