#include "kernels/kernels.h"
#include "kernels/loops.h"

#include <cmath>

namespace dpsim::kernels {
namespace {

// A function of the distance with two derivatives.
template <typename T>
struct Radial {
  T f, d1, d2;
};

template <typename T>
Radial<T> fade(const Fade &at, T r) {
  const T start = static_cast<T>(at.start), end = static_cast<T>(at.end);
  if (at.form == Switch::polynomial) {
    const T length = end - start, u = std::clamp((r - start) / length, T(0), T(1)), v = u * (T(1) - u);
    return {u * u * u * (T(-6) * u * u + T(15) * u - T(10)) + T(1), T(-30) * v * v / length,
            T(-60) * v * (T(1) - T(2) * u) / (length * length)};
  }
  const T rate = T(20) / start, e = std::exp(rate * (std::min(r, end) - start)), f = std::exp(-e);
  if (r > end) return {f, T(0), T(0)};
  return {f, -rate * e * f, rate * rate * e * (e - T(1)) * f};
}

// What one edge is made of: the switch w, s = w / (r + p) and q = w / (r + p)^2.
template <typename T>
struct Edge {
  Edge(const Environment<T> &env, int64_t t, int64_t e) : d(env.d + 3 * e), n(env.columns) {
    mean = env.mean + env.types[t] * n, scale = env.scale + env.types[t] * n;
    r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
    per_length = r > T(0) ? T(1) / r : T(0);  // two atoms in one place have no direction
    const T inverse = T(1) / (r + static_cast<T>(env.fade.protection)), square = inverse * inverse;
    w = fade(env.fade, r);
    s = {w.f * inverse, (w.d1 - w.f * inverse) * inverse, (w.d2 - T(2) * (w.d1 - w.f * inverse) * inverse) * inverse};
    q = {w.f * square, (w.d1 - T(2) * w.f * inverse) * square,
         (w.d2 - T(4) * w.d1 * inverse + T(6) * w.f * square) * square};
  }

  // Gradients with respect to the unscaled row; zeros beyond the columns that there are.
  void take(const T *g, int64_t e, T *to) const {
    for (int64_t k = 0; k < 4; ++k) to[k] = g && k < n ? g[e * n + k] * scale[k] : T(0);
  }

  const T *d, *mean, *scale;
  int64_t n;
  T r, per_length;
  Radial<T> w, s, q;
};

template <typename T>
T dot(const T *a, const T *b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// f(edge's parts, number) for all edges.
template <typename T, typename F>
void for_edges(const Environment<T> &env, const F &f) {
  for_segments(env.S, 16 * env.ptr[env.S], [&](int64_t t) {
    for (int64_t e = env.ptr[t]; e < env.ptr[t + 1]; ++e) f(Edge<T>(env, t, e), e);
  });
}

}  // namespace

template <typename T>
void environment(const Environment<T> &env, T *rows, T *sw, T *r) {
  for_edges(env, [&](const Edge<T> &edge, int64_t e) {
    T *row = rows + e * edge.n;
    row[0] = (edge.s.f - edge.mean[0]) * edge.scale[0];
    for (int64_t k = 1; k < edge.n; ++k) row[k] = (edge.q.f * edge.d[k - 1] - edge.mean[k]) * edge.scale[k];
    sw[e] = edge.w.f;
    r[e] = edge.r;
  });
}

template <typename T>
void environment_backward(const Environment<T> &env, const EnvironmentGradient<const T> &g, T *dd) {
  for_edges(env, [&](const Edge<T> &edge, int64_t e) {
    T row[4];
    edge.take(g.rows, e, row);
    const T along = row[0] * edge.s.d1 + dot(row + 1, edge.d) * edge.q.d1 + (g.sw ? g.sw[e] * edge.w.d1 : T(0)) +
                    (g.r ? g.r[e] : T(0));
    for (int k = 0; k < 3; ++k) dd[3 * e + k] = along * edge.d[k] * edge.per_length + edge.q.f * row[k + 1];
  });
}

template <typename T>
void environment_double_backward(const Environment<T> &env, const T *u_, const EnvironmentGradient<const T> &g,
                                 const EnvironmentGradient<T> &dg, T *dd) {
  for_edges(env, [&](const Edge<T> &edge, int64_t e) {
    const T *u = u_ + 3 * e, *d = edge.d;
    const T slope = dot(u, d) * edge.per_length;  // of the distance along u
    if (dg.rows) {
      T *to = dg.rows + e * edge.n;
      to[0] = edge.s.d1 * slope * edge.scale[0];
      for (int64_t k = 1; k < edge.n; ++k)
        to[k] = (edge.q.d1 * d[k - 1] * slope + edge.q.f * u[k - 1]) * edge.scale[k];
    }
    if (dg.sw) dg.sw[e] = edge.w.d1 * slope;
    if (dg.r) dg.r[e] = slope;
    if (!dd) return;
    T row[4];
    edge.take(g.rows, e, row);
    const T sw = g.sw ? g.sw[e] : T(0), across = dot(row + 1, d);
    const T first = row[0] * edge.s.d1 + across * edge.q.d1 + sw * edge.w.d1 + (g.r ? g.r[e] : T(0));
    const T second = row[0] * edge.s.d2 + across * edge.q.d2 + sw * edge.w.d2;
    for (int k = 0; k < 3; ++k) {
      const T unit = d[k] * edge.per_length;
      dd[3 * e + k] = (second * unit + edge.q.d1 * row[k + 1]) * slope + first * (u[k] - slope * unit) * edge.per_length +
                      dot(row + 1, u) * edge.q.d1 * unit;
    }
  });
}

#define DPSIM_INSTANTIATE(T)                                                                                    \
  template void environment(const Environment<T> &, T *, T *, T *);                                             \
  template void environment_backward(const Environment<T> &, const EnvironmentGradient<const T> &, T *);        \
  template void environment_double_backward(const Environment<T> &, const T *, const EnvironmentGradient<const T> &, \
                                            const EnvironmentGradient<T> &, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
