#include "kernels.h"
#include "kernels_loops.h"

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
  const auto add = [](const Vec<T> &a, const Vec<T> &b) { return a + b; };
  for_items(E, M, [&](int64_t e) {
    const Place at = locate(grid, static_cast<double>(x[e]));
    const T *row = table + at.row * kTerms * M;
    T w[kTerms];
    factors(at, order, w);
    Vec<T> sum(0);
    columns<T>(0, M, [&](int64_t c, int64_t n) {
      sum = at::vec::fmadd(Vec<T>::loadu(g + e * M + c, n), spline(row, w, order, M, c, n), sum);
    });
    out[e] = at::vec::vec_reduce_all<T>(add, sum);
  });
}

#define DPSIM_INSTANTIATE(T)                                                                                      \
  template void tabulate(const T *, const T *, const TableGrid &, int64_t, int64_t, int64_t, T *);                \
  template void tabulate_dot(const T *, const T *, const T *, const TableGrid &, int64_t, int64_t, int64_t, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
