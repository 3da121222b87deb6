#include "kernels.h"
#include "kernels_activation.h"
#include "kernels_loops.h"

namespace dpsim::kernels {
namespace {

// One row of pre-activations: where its three terms come from.
template <typename T>
struct Row {
  Row(const Fused<T> &f, int64_t t, int64_t m)
      : C(f.C), x(f.x + m * f.C), s(f.s + t * f.C), b(f.b + f.b_index[m] * f.C) {}

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

template <typename T, typename Phi>
void forward(const Fused<T> &f, const Phi &function, T *reduced, T *item) {
  const int64_t rest = f.C - f.c1;
  for_segments(f.S, f.M * f.C, [&](int64_t t) {
    T *sum = reduced + t * f.c1;
    std::fill(sum, sum + f.c1, T(0));
    for (int64_t m = f.ptr[t]; m < f.ptr[t + 1]; ++m) {
      const Row<T> row(f, t, m);
      const Vec<T> w(f.w[m]);
      T *out = item + m * rest - f.c1;
      function.for_row(row, [&](const auto &phi) {
        columns<T>(0, f.c1, [&](int64_t c, int64_t n) { add(sum + c, w * phi(row.pre(c, n)), n); });
        columns<T>(f.c1, f.C, [&](int64_t c, int64_t n) { phi(row.pre(c, n)).store(out + c, n); });
      });
    }
  });
}

// Where the gradient of a row of b goes: straight to its sum when there is one thread, otherwise
// in a pass of its own after dx is known. Both add the items in ascending order.
template <typename T>
struct ToB {
  ToB(const Fused<T> &f_, T *db_) : f(f_), db(db_), direct(one_thread()) {
    if (direct) std::fill(db, db + f.B * f.C, T(0));
  }

  void operator()(int64_t m, int64_t c, const Vec<T> &v, int64_t n) const {
    if (direct) add(db + f.b_index[m] * f.C + c, v, n);
  }

  void finish(const T *dx) const {
    if (!direct) scatter_into(dx, f.b_index, f.M, f.B, f.C, db);
  }

  const Fused<T> &f;
  T *db;
  bool direct;
};

template <typename T, typename Phi>
void backward(const Fused<T> &f, const Phi &function, Rows<T> go, Rows<T> gi, T *dx, T *ds, T *db, T *dw) {
  const ToB<T> to_b(f, db);
  for_segments(f.S, f.M * f.C, [&](int64_t t) {
    T *dst = ds + t * f.C;
    const T *got = go.row(t);
    std::fill(dst, dst + f.C, T(0));
    for (int64_t m = f.ptr[t]; m < f.ptr[t + 1]; ++m) {
      const Row<T> row(f, t, m);
      const Vec<T> w(f.w[m]);
      T *dxm = dx + m * f.C;
      const auto give = [&](int64_t c, const Vec<T> &d, int64_t n) {
        d.store(dxm + c, n);
        add(dst + c, d, n);
        to_b(m, c, d, n);
      };
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
          phi(row.pre(c, n), d1);
          give(c, Vec<T>::loadu(gim + c, n) * d1, n);
        });
        dw[m] = total(dwm);
      });
    }
  });
  to_b.finish(dx);
}

template <typename T, typename Phi>
void double_backward(const Fused<T> &f, const Phi &function, Rows<T> ddx, Rows<T> dds, Rows<T> ddb, Rows<T> ddw,
                     Rows<T> go, Rows<T> gi, T *dgo, T *dgi, T *dx, T *ds, T *db, T *dw) {
  const ToB<T> to_b(f, db);
  const int64_t rest = f.C - f.c1;
  for_segments(f.S, f.M * f.C, [&](int64_t t) {
    T *dst = ds + t * f.C, *dgot = dgo + t * f.c1;
    const T *got = go.row(t), *ddst = dds.row(t);
    std::fill(dst, dst + f.C, T(0));
    std::fill(dgot, dgot + f.c1, T(0));
    for (int64_t m = f.ptr[t]; m < f.ptr[t + 1]; ++m) {
      const Row<T> row(f, t, m);
      const Vec<T> w(f.w[m]), ddwm(*ddw.row(m));
      const T *ddxm = ddx.row(m), *ddbm = ddb.row(f.b_index[m]);
      T *dxm = dx + m * f.C;
      // Cotangent of the pre-activation.
      const auto cotangent = [&](int64_t c, int64_t n) {
        return Vec<T>::loadu(ddxm + c, n) + Vec<T>::loadu(ddst + c, n) + Vec<T>::loadu(ddbm + c, n);
      };
      const auto give = [&](int64_t c, const Vec<T> &d, int64_t n) {
        d.store(dxm + c, n);
        add(dst + c, d, n);
        to_b(m, c, d, n);
      };
      const T *gim = gi.row(m) - f.c1;
      function.for_row(row, [&](const auto &phi) {
        Vec<T> dwm(0);
        columns<T>(0, f.c1, [&](int64_t c, int64_t n) {
          Vec<T> d1, d2;
          const auto g = Vec<T>::loadu(got + c, n), u = cotangent(c, n), value = phi(row.pre(c, n), d1, d2);
          const auto d1u = d1 * u;
          add(dgot + c, w * d1u + ddwm * value, n);
          dwm = at::vec::fmadd(g, d1u, dwm);
          give(c, g * (w * d2 * u + ddwm * d1), n);
        });
        columns<T>(f.c1, f.C, [&](int64_t c, int64_t n) {
          Vec<T> d1, d2;
          phi(row.pre(c, n), d1, d2);
          const auto u = cotangent(c, n);
          if (dgi != nullptr) (d1 * u).store(dgi + m * rest - f.c1 + c, n);
          give(c, d2 * Vec<T>::loadu(gim + c, n) * u, n);
        });
        dw[m] = total(dwm);
      });
    }
  });
  to_b.finish(dx);
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
void fused_forward(const Fused<T> &f, T *reduced, T *item) {
  with_activation(f, [&](const auto &phi) { forward(f, phi, reduced, item); });
}

template <typename T>
void fused_backward(const Fused<T> &f, Rows<T> go, Rows<T> gi, T *dx, T *ds, T *db, T *dw) {
  with_activation(f, [&](const auto &phi) { backward(f, phi, go, gi, dx, ds, db, dw); });
}

template <typename T>
void fused_double_backward(const Fused<T> &f, Rows<T> ddx, Rows<T> dds, Rows<T> ddb, Rows<T> ddw, Rows<T> go,
                           Rows<T> gi, T *dgo, T *dgi, T *dx, T *ds, T *db, T *dw) {
  with_activation(f, [&](const auto &phi) {
    double_backward(f, phi, ddx, dds, ddb, ddw, go, gi, dgo, dgi, dx, ds, db, dw);
  });
}

#define DPSIM_INSTANTIATE(T)                                                                       \
  template void fused_forward(const Fused<T> &, T *, T *);                                         \
  template void fused_backward(const Fused<T> &, Rows<T>, Rows<T>, T *, T *, T *, T *);            \
  template void fused_double_backward(const Fused<T> &, Rows<T>, Rows<T>, Rows<T>, Rows<T>, Rows<T>, \
                                      Rows<T>, T *, T *, T *, T *, T *, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
