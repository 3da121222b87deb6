// dpsim::gather_act_reduce and its derivatives.
#include "ops/fused.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

namespace dpsim {
namespace {

using at::Tensor;
using std::optional;

struct Arguments : FusedArguments {
  Arguments(const char *name, const Tensor &x_, const Tensor &s_, const Tensor &b_, const Tensor &w_,
            const Tensor &ptr_, const Tensor &b_index_, int64_t c1_, int64_t activation_, double threshold_)
      : FusedArguments(name, matrix(name, x_), x_.size(0), x_.size(1), s_, b_, w_, ptr_, b_index_, c1_, activation_,
                       threshold_),
        x(x_.contiguous()) {}

  static const Tensor &matrix(const char *name, const Tensor &x) {
    TORCH_CHECK(x.dim() == 2, name, ": x must have two dimensions");
    return x;
  }

  template <typename T>
  kernels::Fused<T> all() const {
    return plain<T>(x.const_data_ptr<T>());
  }

  Tensor x;
};

// f(segments) for all of them, shared among threads.
template <typename F>
void for_segments(const FusedArguments &a, const F &f) {
  constexpr int64_t kTaskSize = 16384;  // numbers that are worth a task of their own
  const int64_t grain = std::max<int64_t>(1, kTaskSize * a.S / std::max<int64_t>(a.M * a.C, 1));
  at::parallel_for(0, a.S, grain, [&](int64_t begin, int64_t end) { f(kernels::Segments{begin, end}); });
}

// Where the gradient of a row of b goes: straight to its sum when there is one thread, otherwise in
// a pass of its own after dx is known. Both add the items in ascending order.
struct GradientOfB {
  explicit GradientOfB(const FusedArguments &a_)
      : a(a_), direct(at::get_num_threads() == 1 || at::in_parallel_region()),
        sum(direct ? at::zeros({a.B, a.C}, a.options) : a.empty({a.B, a.C})) {}

  template <typename T>
  T *pointer() {
    return direct ? sum.data_ptr<T>() : nullptr;
  }

  template <typename T>
  void finish(const T *dx) {
    if (!direct) kernels::scatter_rows(dx, a.b_index.const_data_ptr<int64_t>(), a.M, a.B, a.C, sum.data_ptr<T>());
  }

  const FusedArguments &a;
  bool direct;
  Tensor sum;
};

#define DPSIM_ARGUMENTS                                                                                         \
  const Tensor &x, const Tensor &s, const Tensor &b, const Tensor &w, const Tensor &ptr, const Tensor &b_index, \
      int64_t c1, int64_t activation, double threshold

std::tuple<Tensor, Tensor> gather_act_reduce(DPSIM_ARGUMENTS) {
  constexpr const char *name = "dpsim::gather_act_reduce";
  const Arguments a(name, x, s, b, w, ptr, b_index, c1, activation, threshold);
  Tensor reduced = a.empty({a.S, c1}), item = a.empty({a.M, a.C - c1});
  DPSIM_FLOAT(a.x.scalar_type(), name, [&] {
    scalar_t *to_reduced = reduced.data_ptr<scalar_t>(), *to_item = item.data_ptr<scalar_t>();
    for_segments(a, [&](kernels::Segments which) {
      kernels::fused_forward<scalar_t>(a.all<scalar_t>(), which, nullptr, to_reduced, to_item);
    });
  });
  return {reduced, item};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gather_act_reduce_backward(const optional<Tensor> &grad_reduced,
                                                                      const optional<Tensor> &grad_item,
                                                                      DPSIM_ARGUMENTS) {
  constexpr const char *name = "dpsim::gather_act_reduce_backward";
  const Arguments a(name, x, s, b, w, ptr, b_index, c1, activation, threshold);
  const Cotangent go(name, "grad_reduced", grad_reduced, a.x, {a.S, c1});
  const Cotangent gi(name, "grad_item", grad_item, a.x, {a.M, a.C - c1});
  Tensor dx = a.empty({a.M, a.C}), ds = a.empty({a.S, a.C}), dw = a.empty({a.M});
  GradientOfB db(a);
  DPSIM_FLOAT(a.x.scalar_type(), name, [&] {
    const kernels::FusedGradients<scalar_t> d{dx.data_ptr<scalar_t>(), ds.data_ptr<scalar_t>(), db.pointer<scalar_t>(),
                                              dw.data_ptr<scalar_t>(), nullptr};
    for_segments(a, [&](kernels::Segments which) {
      kernels::fused_backward(a.all<scalar_t>(), which, go.plain<scalar_t>(), gi.plain<scalar_t>(), d);
    });
    db.finish(d.dx);
  });
  return {dx, ds, db.sum, dw};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gather_act_reduce_double_backward(
    const optional<Tensor> &ddx_, const optional<Tensor> &dds_, const optional<Tensor> &ddb_,
    const optional<Tensor> &ddw_, const optional<Tensor> &grad_reduced, const optional<Tensor> &grad_item,
    DPSIM_ARGUMENTS) {
  constexpr const char *name = "dpsim::gather_act_reduce_double_backward";
  const Arguments a(name, x, s, b, w, ptr, b_index, c1, activation, threshold);
  const Cotangent ddx(name, "ddx", ddx_, a.x, {a.M, a.C}), dds(name, "dds", dds_, a.x, {a.S, a.C});
  const Cotangent ddb(name, "ddb", ddb_, a.x, {a.B, a.C}), ddw(name, "ddw", ddw_, a.x, {a.M});
  const Cotangent ddscale(name, "ddscale", std::nullopt, a.x, {1, a.C - c1});
  const Cotangent go(name, "grad_reduced", grad_reduced, a.x, {a.S, c1});
  const Cotangent gi(name, "grad_item", grad_item, a.x, {a.M, a.C - c1});
  // Without grad_item nobody asks for its gradient, and it would be as large as x.
  const bool items = is_given(grad_item);
  Tensor dgo = a.empty({a.S, c1}), dgi = a.empty({items ? a.M : 0, a.C - c1});
  Tensor dx = a.empty({a.M, a.C}), ds = a.empty({a.S, a.C}), dw = a.empty({a.M});
  GradientOfB db(a);
  DPSIM_FLOAT(a.x.scalar_type(), name, [&] {
    const kernels::FusedCotangents<scalar_t> u{ddx.plain<scalar_t>(), dds.plain<scalar_t>(), ddb.plain<scalar_t>(),
                                               ddw.plain<scalar_t>(), ddscale.plain<scalar_t>()};
    const kernels::FusedGradients<scalar_t> d{dx.data_ptr<scalar_t>(), ds.data_ptr<scalar_t>(), db.pointer<scalar_t>(),
                                              dw.data_ptr<scalar_t>(), nullptr};
    scalar_t *to_dgo = dgo.data_ptr<scalar_t>(), *to_dgi = items ? dgi.data_ptr<scalar_t>() : nullptr;
    for_segments(a, [&](kernels::Segments which) {
      kernels::fused_double_backward<scalar_t>(a.all<scalar_t>(), which, u, go.plain<scalar_t>(),
                                               gi.plain<scalar_t>(), to_dgo, to_dgi, nullptr, d);
    });
    db.finish(d.dx);
  });
  return {dgo, dgi, dx, ds, db.sum, dw};
}

}  // namespace
}  // namespace dpsim

#define DPSIM_SCHEMA \
  "Tensor x, Tensor s, Tensor b, Tensor w, Tensor ptr, Tensor b_index, int c1, int activation, float threshold"

TORCH_LIBRARY_FRAGMENT(dpsim, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("gather_act_reduce(" DPSIM_SCHEMA ") -> (Tensor reduced, Tensor item)", tags);
  m.def("gather_act_reduce_backward(Tensor? grad_reduced, Tensor? grad_item, " DPSIM_SCHEMA
        ") -> (Tensor dx, Tensor ds, Tensor db, Tensor dw)", tags);
  m.def("gather_act_reduce_double_backward(Tensor? ddx, Tensor? dds, Tensor? ddb, Tensor? ddw, "
        "Tensor? grad_reduced, Tensor? grad_item, " DPSIM_SCHEMA
        ") -> (Tensor dgrad_reduced, Tensor dgrad_item, Tensor dx, Tensor ds, Tensor db, Tensor dw)", tags);
}

TORCH_LIBRARY_IMPL(dpsim, CPU, m) {
  m.impl("gather_act_reduce", &dpsim::gather_act_reduce);
  m.impl("gather_act_reduce_backward", &dpsim::gather_act_reduce_backward);
  m.impl("gather_act_reduce_double_backward", &dpsim::gather_act_reduce_double_backward);
}
