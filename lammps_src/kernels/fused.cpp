#include "kernels/kernels.h"
#include "kernels/activation.h"
#include "kernels/loops.h"

namespace dpsim::kernels {
namespace {

// One row of pre-activations: where its three terms come from.
template <typename T>
struct Row {
  Row(const Fused<T> &f, int64_t t, int64_t m)
      : C(f.C), x(f.x + (m - f.first) * f.C), s(f.s + t * f.C), b(f.b + f.b_index[m] * f.C) {}

  Vec<T> pre(int64_t c, int64_t n) const {
    return Vec<T>::loadu(x + c, n) + Vec<T>::loadu(s + c, n) + Vec<T>::loadu(b + c, n);
  }

  // Columns beyond the last one count as zeros.
  template <typename F>
  void each(const F &f) const {
    columns<T>(0, C, [&](int64_t c, int64_t n) { f(pre(c, n)); });
  }

  int64_t C;
  const T *x, *s, *b;
};

template <typename T>
inline void add(T *to, const Vec<T> &v, int64_t n) {
  (Vec<T>::loadu(to, n) + v).store(to, n);
}

template <typename T>
inline T total(const Vec<T> &v) {
  return at::vec::vec_reduce_all<T>([](const Vec<T> &a, const Vec<T> &b) { return a + b; }, v);
}

// Where the gradient of the pre-activation of an item goes.
template <typename T>
struct Give {
  Give(const Fused<T> &f, const FusedGradients<T> &d, int64_t t, int64_t m)
      : dx(d.dx == nullptr ? nullptr : d.dx + (m - f.first) * f.C),
        ds(d.ds + t * f.C),
        db(d.db == nullptr ? nullptr : d.db + f.b_index[m] * f.C) {}

  void operator()(int64_t c, const Vec<T> &v, int64_t n) const {
    if (dx != nullptr) v.store(dx + c, n);
    add(ds + c, v, n);
    if (db != nullptr) add(db + c, v, n);
  }

  T *dx, *ds, *db;
};

template <typename T, typename Phi>
void forward(const Fused<T> &f, Segments which, const Phi &function, const T *base, T *reduced, T *item) {
  const int64_t rest = f.C - f.c1;
  const T *scale = f.scale - f.c1;
  for (int64_t t = which.begin; t < which.end; ++t) {
    T *sum = reduced + t * f.c1;
    std::fill(sum, sum + f.c1, T(0));
    for (int64_t m = f.ptr[t]; m < f.ptr[t + 1]; ++m) {
      const Row<T> row(f, t, m);
      const Vec<T> w(f.w[m]);
      T *out = item + m * rest - f.c1;
      const T *old = base == nullptr ? nullptr : base + m * rest - f.c1;
      function.for_row(row, [&](const auto &phi) {
        columns<T>(0, f.c1, [&](int64_t c, int64_t n) { add(sum + c, w * phi(row.pre(c, n)), n); });
        columns<T>(f.c1, f.C, [&](int64_t c, int64_t n) {
          const auto scaled = Vec<T>::loadu(scale + c, n) * phi(row.pre(c, n));
          (old == nullptr ? scaled : Vec<T>::loadu(old + c, n) + scaled).store(out + c, n);
        });
      });
    }
  }
}

template <typename T, typename Phi>
void backward(const Fused<T> &f, Segments which, const Phi &function, Rows<T> go, Rows<T> gi,
              const FusedGradients<T> &d) {
  const T *scale = f.scale - f.c1;
  for (int64_t t = which.begin; t < which.end; ++t) {
    const T *got = go.row(t);
    std::fill(d.ds + t * f.C, d.ds + (t + 1) * f.C, T(0));
    for (int64_t m = f.ptr[t]; m < f.ptr[t + 1]; ++m) {
      const Row<T> row(f, t, m);
      const Vec<T> w(f.w[m]);
      const Give<T> give(f, d, t, m);
      const T *gim = gi.row(m) - f.c1;
      function.for_row(row, [&](const auto &phi) {
        Vec<T> dwm(0);
        columns<T>(0, f.c1, [&](int64_t c, int64_t n) {
          Vec<T> d1;
          const auto g = Vec<T>::loadu(got + c, n), value = phi(row.pre(c, n), d1);
          dwm = at::vec::fmadd(g, value, dwm);
          give(c, w * g * d1, n);
        });
        columns<T>(f.c1, f.C, [&](int64_t c, int64_t n) {
          Vec<T> d1;
          const auto g = Vec<T>::loadu(gim + c, n), value = phi(row.pre(c, n), d1);
          if (d.dscale != nullptr) add(d.dscale - f.c1 + c, g * value, n);
          give(c, Vec<T>::loadu(scale + c, n) * g * d1, n);
        });
        d.dw[m] = total(dwm);
      });
    }
  }
}

template <typename T, typename Phi>
void double_backward(const Fused<T> &f, Segments which, const Phi &function, const FusedCotangents<T> &u_, Rows<T> go,
                     Rows<T> gi, T *dgo, T *dgi, T *dx_first, const FusedGradients<T> &d) {
  const int64_t rest = f.C - f.c1;
  const T *scale = f.scale - f.c1, *ddscale = u_.ddscale.row(0) - f.c1;
  for (int64_t t = which.begin; t < which.end; ++t) {
    T *dgot = dgo + t * f.c1;
    const T *got = go.row(t), *ddst = u_.dds.row(t);
    std::fill(d.ds + t * f.C, d.ds + (t + 1) * f.C, T(0));
    std::fill(dgot, dgot + f.c1, T(0));
    for (int64_t m = f.ptr[t]; m < f.ptr[t + 1]; ++m) {
      const Row<T> row(f, t, m);
      const Vec<T> w(f.w[m]), ddwm(*u_.ddw.row(m));
      const T *ddxm = u_.ddx.row(m - f.first), *ddbm = u_.ddb.row(f.b_index[m]);
      T *first = dx_first == nullptr ? nullptr : dx_first + (m - f.first) * f.C;
      // Cotangent of the pre-activation.
      const auto cotangent = [&](int64_t c, int64_t n) {
        return Vec<T>::loadu(ddxm + c, n) + Vec<T>::loadu(ddst + c, n) + Vec<T>::loadu(ddbm + c, n);
      };
      const Give<T> give(f, d, t, m);
      const T *gim = gi.row(m) - f.c1;
      T *dgim = dgi == nullptr ? nullptr : dgi + m * rest - f.c1;
      function.for_row(row, [&](const auto &phi) {
        Vec<T> dwm(0);
        columns<T>(0, f.c1, [&](int64_t c, int64_t n) {
          Vec<T> d1, d2;
          const auto g = Vec<T>::loadu(got + c, n), u = cotangent(c, n), value = phi(row.pre(c, n), d1, d2);
          const auto d1u = d1 * u;
          add(dgot + c, w * d1u + ddwm * value, n);
          dwm = at::vec::fmadd(g, d1u, dwm);
          if (first != nullptr) (w * g * d1).store(first + c, n);
          give(c, g * (w * d2 * u + ddwm * d1), n);
        });
        columns<T>(f.c1, f.C, [&](int64_t c, int64_t n) {
          Vec<T> d1, d2;
          const auto g = Vec<T>::loadu(gim + c, n), u = cotangent(c, n), value = phi(row.pre(c, n), d1, d2);
          const auto by = Vec<T>::loadu(scale + c, n), ddby = Vec<T>::loadu(ddscale + c, n), d1u = d1 * u;
          if (dgim != nullptr) (by * d1u + ddby * value).store(dgim + c, n);
          if (d.dscale != nullptr) add(d.dscale - f.c1 + c, g * d1u, n);
          if (first != nullptr) (by * g * d1).store(first + c, n);
          give(c, g * (by * d2 * u + ddby * d1), n);
        });
        d.dw[m] = total(dwm);
      });
    }
  }
}

// Calls body with the activation function asked for.
template <typename T, typename F>
void with_activation(const Fused<T> &f, const F &body) {
  switch (f.activation) {
    case Activation::silu: return body(Silu<T>(f.threshold));
    case Activation::silut: return body(Silut<T>(f.threshold));
    case Activation::tanh: return body(Tanh<T>(f.threshold));
  }
}

}  // namespace

template <typename T>
void fused_forward(const Fused<T> &f, Segments which, const T *base, T *reduced, T *item) {
  with_activation(f, [&](const auto &phi) { forward(f, which, phi, base, reduced, item); });
}

template <typename T>
void fused_backward(const Fused<T> &f, Segments which, Rows<T> go, Rows<T> gi, const FusedGradients<T> &d) {
  with_activation(f, [&](const auto &phi) { backward(f, which, phi, go, gi, d); });
}

template <typename T>
void fused_double_backward(const Fused<T> &f, Segments which, const FusedCotangents<T> &u, Rows<T> go, Rows<T> gi,
                           T *dgo, T *dgi, T *dx_first, const FusedGradients<T> &d) {
  with_activation(f, [&](const auto &phi) { double_backward(f, which, phi, u, go, gi, dgo, dgi, dx_first, d); });
}

#define DPSIM_INSTANTIATE(T)                                                                                        \
  template void fused_forward(const Fused<T> &, Segments, const T *, T *, T *);                                     \
  template void fused_backward(const Fused<T> &, Segments, Rows<T>, Rows<T>, const FusedGradients<T> &);            \
  template void fused_double_backward(const Fused<T> &, Segments, const FusedCotangents<T> &, Rows<T>, Rows<T>, T *, \
                                      T *, T *, const FusedGradients<T> &);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
