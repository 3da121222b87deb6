// dpsim's operators: tensors are checked and allocated here, computed in kernels*.cpp, and
// registered with torch's dispatcher at the end.
//
// Fake kernels and derivatives are registered from Python (dpsim/ops): they are needed where
// graphs are traced, never where an exported model runs.
#include "halo_registry.h"
#include "kernels.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

namespace dpsim {
namespace {

using at::Tensor;
using std::optional;

// ---- checks: sizes and indices once at the door; kernels trust them ------------------------------

Tensor rows(const char *name, const char *what, const Tensor &t, const Tensor &like, at::IntArrayRef sizes) {
  TORCH_CHECK(t.scalar_type() == like.scalar_type() && t.sizes() == sizes, name, ": ", what, " is ", t.scalar_type(),
              t.sizes(), ", expected ", like.scalar_type(), sizes);
  return t.contiguous();
}

Tensor check_ptr(const char *name, const Tensor &ptr_, int64_t M, int64_t S) {
  TORCH_CHECK(ptr_.scalar_type() == at::kLong && ptr_.dim() == 1 && ptr_.size(0) == S + 1, name, ": ptr is ",
              ptr_.scalar_type(), ptr_.sizes(), ", expected int64 (", S + 1, ") for ", S, " segments");
  const Tensor ptr = ptr_.contiguous();
  const int64_t *p = ptr.const_data_ptr<int64_t>();
  bool ascending = p[0] == 0;
  for (int64_t t = 0; t < S; ++t) ascending &= p[t] <= p[t + 1];
  TORCH_CHECK(ascending && p[S] == M, name, ": ptr must ascend from 0 to the number of items (", M, "), it ends at ", p[S]);
  return ptr;
}

Tensor check_index(const char *name, const Tensor &index_, int64_t M, int64_t R) {
  TORCH_CHECK(index_.scalar_type() == at::kLong && index_.dim() == 1 && index_.size(0) == M, name, ": index is ",
              index_.scalar_type(), index_.sizes(), ", expected int64 (", M, ")");
  const Tensor index = index_.contiguous();
  const int64_t *i = index.const_data_ptr<int64_t>();
  bool outside = false;
  for (int64_t m = 0; m < M; ++m) outside |= static_cast<uint64_t>(i[m]) >= static_cast<uint64_t>(R);
  TORCH_CHECK(!outside, name, ": an index is outside 0..", R - 1);
  return index;
}

// Numbers in one row of t (rows, ...), and t's sizes with another number of rows.
int64_t row_size(const char *name, const Tensor &t) {
  TORCH_CHECK(t.dim() > 0, name, ": a tensor without rows");
  return c10::multiply_integers(t.sizes().slice(1));
}
std::vector<int64_t> with_rows(const Tensor &t, int64_t n) {
  auto sizes = t.sizes().vec();
  sizes[0] = n;
  return sizes;
}

#define DPSIM_FLOAT(TYPE, NAME, ...) AT_DISPATCH_FLOATING_TYPES(TYPE, NAME, __VA_ARGS__)

// ---- rows -----------------------------------------------------------------------------------------

Tensor segment_sum(const Tensor &x_, const Tensor &ptr_, int64_t S) {
  constexpr const char *name = "dpsim::segment_sum";
  const int64_t K = row_size(name, x_);
  const Tensor x = x_.contiguous(), ptr = check_ptr(name, ptr_, x.size(0), S);
  Tensor out = at::empty(with_rows(x, S), x.options());
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::segment_sum(x.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K, out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor segment_expand(const Tensor &y_, const Tensor &ptr_, int64_t M) {
  constexpr const char *name = "dpsim::segment_expand";
  const int64_t K = row_size(name, y_), S = y_.size(0);
  const Tensor y = y_.contiguous(), ptr = check_ptr(name, ptr_, M, S);
  Tensor out = at::empty(with_rows(y, M), y.options());
  DPSIM_FLOAT(y.scalar_type(), name, [&] {
    kernels::segment_expand(y.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K, out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor segment_max(const Tensor &x_, const Tensor &ptr_, int64_t S) {
  constexpr const char *name = "dpsim::segment_max";
  const int64_t K = row_size(name, x_);
  const Tensor x = x_.contiguous(), ptr = check_ptr(name, ptr_, x.size(0), S);
  Tensor out = at::empty(with_rows(x, S), x.options());
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::segment_max(x.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K, out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor gather_rows(const Tensor &x_, const Tensor &index_) {
  constexpr const char *name = "dpsim::gather_rows";
  const int64_t K = row_size(name, x_), M = index_.numel();
  const Tensor x = x_.contiguous(), index = check_index(name, index_, M, x.size(0));
  Tensor out = at::empty(with_rows(x, M), x.options());
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::gather_rows(x.const_data_ptr<scalar_t>(), index.const_data_ptr<int64_t>(), M, K, out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor scatter_rows(const Tensor &g_, const Tensor &index_, int64_t R) {
  constexpr const char *name = "dpsim::scatter_rows";
  const int64_t K = row_size(name, g_), M = g_.size(0);
  const Tensor g = g_.contiguous(), index = check_index(name, index_, M, R);
  Tensor out = at::empty(with_rows(g, R), g.options());
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::scatter_rows(g.const_data_ptr<scalar_t>(), index.const_data_ptr<int64_t>(), M, R, K, out.data_ptr<scalar_t>());
  });
  return out;
}

// ---- sums of outer products -----------------------------------------------------------------------

Tensor edge_outer_sum(const Tensor &h_, const Tensor &g_, const Tensor &ptr_, int64_t S) {
  constexpr const char *name = "dpsim::edge_outer_sum";
  TORCH_CHECK(g_.dim() == 2, name, ": g is ", g_.sizes(), ", expected (edges, columns)");
  const int64_t M = g_.size(0), K = g_.size(1);
  const Tensor g = g_.contiguous(), h = rows(name, "h", h_, g, {M, 3}), ptr = check_ptr(name, ptr_, M, S);
  Tensor out = at::empty({S, 3, K}, g.options());
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::outer_sum(h.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K,
                       out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor edge_outer_dot(const Tensor &t_, const Tensor &g_, const Tensor &ptr_) {
  constexpr const char *name = "dpsim::edge_outer_dot";
  TORCH_CHECK(g_.dim() == 2 && t_.dim() == 3, name, ": t is ", t_.sizes(), " and g is ", g_.sizes(),
              ", expected (segments, 3, columns) and (edges, columns)");
  const int64_t M = g_.size(0), K = g_.size(1), S = t_.size(0);
  const Tensor g = g_.contiguous(), ptr = check_ptr(name, ptr_, M, S);
  const Tensor t = rows(name, "t", t_, g, {S, 3, K});
  Tensor out = at::empty({M, 3}, g.options());
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::outer_dot(t.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K,
                       out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor edge_outer_mix(const Tensor &t_, const Tensor &h_, const Tensor &ptr_) {
  constexpr const char *name = "dpsim::edge_outer_mix";
  TORCH_CHECK(t_.dim() == 3, name, ": t is ", t_.sizes(), ", expected (segments, 3, columns)");
  const int64_t M = h_.size(0), K = t_.size(2), S = t_.size(0);
  const Tensor ptr = check_ptr(name, ptr_, M, S);
  const Tensor t = rows(name, "t", t_, t_, {S, 3, K}), h = rows(name, "h", h_, t_, {M, 3});
  Tensor out = at::empty({M, K}, t.options());
  DPSIM_FLOAT(t.scalar_type(), name, [&] {
    kernels::outer_mix(t.const_data_ptr<scalar_t>(), h.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K,
                       out.data_ptr<scalar_t>());
  });
  return out;
}

// ---- products between the edges of a centre -------------------------------------------------------

// Pointers of E edges and A pairs, checked to be those of all pairs of the edges of each centre.
struct PairIndex {
  PairIndex(const char *name, const Tensor &edge_ptr, const Tensor &pair_ptr, int64_t E, int64_t A)
      : N(edge_ptr.numel() - 1) {
    TORCH_CHECK(N >= 0, name, ": edge_ptr is empty, expected one number more than there are centres");
    edge = check_ptr(name, edge_ptr, E, N);
    pair = check_ptr(name, pair_ptr, A, E);
    const int64_t *e = edge.const_data_ptr<int64_t>(), *p = pair.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < N; ++i)
      for (int64_t j = e[i]; j < e[i + 1]; ++j)
        TORCH_CHECK(p[j + 1] - p[j] == e[i + 1] - e[i], name, ": pair_ptr gives edge ", j, " ", p[j + 1] - p[j],
                    " pairs, expected one with each of the ", e[i + 1] - e[i], " edges of its centre");
  }

  kernels::PairPointers plain() const { return {edge.const_data_ptr<int64_t>(), pair.const_data_ptr<int64_t>(), N}; }

  Tensor edge, pair;
  int64_t N;
};

Tensor pair_dot(const Tensor &q_, const Tensor &k_, const Tensor &edge_ptr, const Tensor &pair_ptr, int64_t A) {
  constexpr const char *name = "dpsim::pair_dot";
  TORCH_CHECK(q_.dim() == 3, name, ": q is ", q_.sizes(), ", expected (edges, heads, columns)");
  const int64_t E = q_.size(0), H = q_.size(1), D = q_.size(2);
  const Tensor q = q_.contiguous(), k = rows(name, "k", k_, q, {E, H, D});
  const PairIndex index(name, edge_ptr, pair_ptr, E, A);
  Tensor out = at::empty({A, H}, q.options());
  DPSIM_FLOAT(q.scalar_type(), name, [&] {
    kernels::pair_dot(q.const_data_ptr<scalar_t>(), k.const_data_ptr<scalar_t>(), index.plain(), H, D,
                      out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor pair_mix(const Tensor &p_, const Tensor &v_, const Tensor &edge_ptr, const Tensor &pair_ptr, bool transpose) {
  constexpr const char *name = "dpsim::pair_mix";
  TORCH_CHECK(p_.dim() == 2 && v_.dim() == 3, name, ": p is ", p_.sizes(), " and v is ", v_.sizes(),
              ", expected (pairs, heads) and (edges, heads, columns)");
  const int64_t A = p_.size(0), E = v_.size(0), H = v_.size(1), D = v_.size(2);
  const Tensor v = v_.contiguous(), p = rows(name, "p", p_, v, {A, H});
  const PairIndex index(name, edge_ptr, pair_ptr, E, A);
  Tensor out = at::empty({E, H, D}, v.options());
  DPSIM_FLOAT(v.scalar_type(), name, [&] {
    kernels::pair_mix(p.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(), index.plain(), H, D, transpose,
                      out.data_ptr<scalar_t>());
  });
  return out;
}

// ---- functions of one number from tables ------------------------------------------------------------

constexpr int64_t kTableTerms = 6;

kernels::TableGrid table_grid(const char *name, const Tensor &grid_, int64_t intervals) {
  TORCH_CHECK(grid_.scalar_type() == at::kDouble && grid_.dim() == 1 && grid_.size(0) == 7, name, ": grid is ",
              grid_.scalar_type(), grid_.sizes(), ", expected float64 (7)");
  const Tensor grid = grid_.contiguous();
  const double *g = grid.const_data_ptr<double>();
  const kernels::TableGrid found{g[0], g[1], g[2], g[3], static_cast<int64_t>(g[4]), static_cast<int64_t>(g[5]),
                                 static_cast<int64_t>(g[6])};
  const bool ascends = g[0] <= g[1] && g[1] < g[2] && g[2] <= g[3];
  const bool counts = (found.below > 0 || (found.below == 0 && g[0] == g[1])) && found.inside > 0 &&
                      (found.above > 0 || (found.above == 0 && g[2] == g[3]));
  TORCH_CHECK(ascends && counts && found.below + found.inside + found.above == intervals, name,
              ": the grid must ascend and have as many intervals as the table (", intervals, ")");
  return found;
}

Tensor tabulate(const Tensor &x_, const Tensor &table_, const Tensor &grid_, int64_t order) {
  constexpr const char *name = "dpsim::tabulate";
  TORCH_CHECK(x_.dim() == 1 && table_.dim() == 3, name, ": x is ", x_.sizes(), " and table is ", table_.sizes(),
              ", expected (items) and (intervals, 6, columns)");
  const int64_t E = x_.size(0), S = table_.size(0), M = table_.size(2);
  const Tensor x = x_.contiguous(), table = rows(name, "table", table_, x, {S, kTableTerms, M});
  const auto grid = table_grid(name, grid_, S);
  Tensor out = at::empty({E, M}, x.options());
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::tabulate(x.const_data_ptr<scalar_t>(), table.const_data_ptr<scalar_t>(), grid, order, E, M,
                      out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor tabulate_dot(const Tensor &x_, const Tensor &table_, const Tensor &g_, const Tensor &grid_, int64_t order) {
  constexpr const char *name = "dpsim::tabulate_dot";
  TORCH_CHECK(x_.dim() == 1 && table_.dim() == 3, name, ": x is ", x_.sizes(), " and table is ", table_.sizes(),
              ", expected (items) and (intervals, 6, columns)");
  const int64_t E = x_.size(0), S = table_.size(0), M = table_.size(2);
  const Tensor x = x_.contiguous(), table = rows(name, "table", table_, x, {S, kTableTerms, M});
  const Tensor g = rows(name, "g", g_, x, {E, M});
  const auto grid = table_grid(name, grid_, S);
  Tensor out = at::empty({E}, x.options());
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::tabulate_dot(x.const_data_ptr<scalar_t>(), table.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(),
                          grid, order, E, M, out.data_ptr<scalar_t>());
  });
  return out;
}

// ---- gather + activation + weighted segment sum -----------------------------------------------------

// The arguments that the operator and its derivatives share, checked and contiguous.
struct FusedArguments {
  FusedArguments(const char *name, const Tensor &x_, const Tensor &s_, const Tensor &b_, const Tensor &w_,
                 const Tensor &ptr_, const Tensor &b_index_, int64_t c1_, int64_t activation_, double threshold_)
      : c1(c1_), activation(activation_), threshold(threshold_) {
    TORCH_CHECK(x_.dim() == 2 && s_.dim() == 2 && b_.dim() == 2, name, ": x, s and b must have two dimensions");
    M = x_.size(0), C = x_.size(1), S = s_.size(0), B = b_.size(0);
    TORCH_CHECK(0 <= c1 && c1 <= C, name, ": c1 is ", c1, ", expected 0..", C);
    TORCH_CHECK(0 <= activation && activation <= 2, name, ": activation is ", activation, ", expected 0, 1 or 2");
    ptr = check_ptr(name, ptr_, M, S);
    x = x_.contiguous();
    s = rows(name, "s", s_, x, {S, C});
    b = rows(name, "b", b_, x, {B, C});
    w = rows(name, "w", w_, x, {M});
    b_index = check_index(name, b_index_, M, B);
  }

  template <typename T>
  kernels::Fused<T> plain() const {
    return {x.const_data_ptr<T>(), s.const_data_ptr<T>(), b.const_data_ptr<T>(), w.const_data_ptr<T>(),
            ptr.const_data_ptr<int64_t>(), b_index.const_data_ptr<int64_t>(), M, S, B, C, c1,
            static_cast<kernels::Activation>(activation), static_cast<T>(threshold)};
  }

  Tensor empty(at::IntArrayRef sizes) const { return at::empty(sizes, x.options()); }

  Tensor x, s, b, w, ptr, b_index;
  int64_t M = 0, S = 0, B = 0, C = 0, c1, activation;
  double threshold;
};

// A cotangent that may be absent; then one row of zeros stands for all of its rows.
struct Cotangent {
  Cotangent(const char *name, const char *what, const optional<Tensor> &t, const Tensor &like, at::IntArrayRef sizes) {
    if (t.has_value() && t->defined()) {
      value = rows(name, what, *t, like, sizes);
      stride = c10::multiply_integers(sizes.slice(1));
    } else {
      value = at::zeros({c10::multiply_integers(sizes.slice(1))}, like.options());
    }
  }

  template <typename T>
  kernels::Rows<T> plain() const {
    return {value.const_data_ptr<T>(), stride};
  }

  Tensor value;
  int64_t stride = 0;
};

#define DPSIM_FUSED_ARGUMENTS                                                                                      \
  const Tensor &x, const Tensor &s, const Tensor &b, const Tensor &w, const Tensor &ptr, const Tensor &b_index, \
      int64_t c1, int64_t activation, double threshold

std::tuple<Tensor, Tensor> gather_act_reduce(DPSIM_FUSED_ARGUMENTS) {
  constexpr const char *name = "dpsim::gather_act_reduce";
  const FusedArguments a(name, x, s, b, w, ptr, b_index, c1, activation, threshold);
  Tensor reduced = a.empty({a.S, c1}), item = a.empty({a.M, a.C - c1});
  DPSIM_FLOAT(a.x.scalar_type(), name, [&] {
    kernels::fused_forward(a.plain<scalar_t>(), reduced.data_ptr<scalar_t>(), item.data_ptr<scalar_t>());
  });
  return {reduced, item};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gather_act_reduce_backward(const optional<Tensor> &grad_reduced,
                                                                      const optional<Tensor> &grad_item,
                                                                      DPSIM_FUSED_ARGUMENTS) {
  constexpr const char *name = "dpsim::gather_act_reduce_backward";
  const FusedArguments a(name, x, s, b, w, ptr, b_index, c1, activation, threshold);
  const Cotangent go(name, "grad_reduced", grad_reduced, a.x, {a.S, c1});
  const Cotangent gi(name, "grad_item", grad_item, a.x, {a.M, a.C - c1});
  Tensor dx = a.empty({a.M, a.C}), ds = a.empty({a.S, a.C}), db = a.empty({a.B, a.C}), dw = a.empty({a.M});
  DPSIM_FLOAT(a.x.scalar_type(), name, [&] {
    kernels::fused_backward(a.plain<scalar_t>(), go.plain<scalar_t>(), gi.plain<scalar_t>(), dx.data_ptr<scalar_t>(),
                            ds.data_ptr<scalar_t>(), db.data_ptr<scalar_t>(), dw.data_ptr<scalar_t>());
  });
  return {dx, ds, db, dw};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gather_act_reduce_double_backward(
    const optional<Tensor> &ddx_, const optional<Tensor> &dds_, const optional<Tensor> &ddb_,
    const optional<Tensor> &ddw_, const optional<Tensor> &grad_reduced, const optional<Tensor> &grad_item,
    DPSIM_FUSED_ARGUMENTS) {
  constexpr const char *name = "dpsim::gather_act_reduce_double_backward";
  const FusedArguments a(name, x, s, b, w, ptr, b_index, c1, activation, threshold);
  const Cotangent ddx(name, "ddx", ddx_, a.x, {a.M, a.C}), dds(name, "dds", dds_, a.x, {a.S, a.C});
  const Cotangent ddb(name, "ddb", ddb_, a.x, {a.B, a.C}), ddw(name, "ddw", ddw_, a.x, {a.M});
  const Cotangent go(name, "grad_reduced", grad_reduced, a.x, {a.S, c1});
  const Cotangent gi(name, "grad_item", grad_item, a.x, {a.M, a.C - c1});
  // Without grad_item nobody asks for its gradient, and it would be as large as x.
  const bool items = grad_item.has_value() && grad_item->defined();
  Tensor dgo = a.empty({a.S, c1}), dgi = a.empty({items ? a.M : 0, a.C - c1});
  Tensor dx = a.empty({a.M, a.C}), ds = a.empty({a.S, a.C}), db = a.empty({a.B, a.C}), dw = a.empty({a.M});
  DPSIM_FLOAT(a.x.scalar_type(), name, [&] {
    kernels::fused_double_backward(
        a.plain<scalar_t>(), ddx.plain<scalar_t>(), dds.plain<scalar_t>(), ddb.plain<scalar_t>(), ddw.plain<scalar_t>(),
        go.plain<scalar_t>(), gi.plain<scalar_t>(), dgo.data_ptr<scalar_t>(),
        items ? dgi.data_ptr<scalar_t>() : nullptr, dx.data_ptr<scalar_t>(), ds.data_ptr<scalar_t>(),
        db.data_ptr<scalar_t>(), dw.data_ptr<scalar_t>());
  });
  return {dgo, dgi, dx, ds, db, dw};
}

}  // namespace
}  // namespace dpsim

#define DPSIM_FUSED_SCHEMA \
  "Tensor x, Tensor s, Tensor b, Tensor w, Tensor ptr, Tensor b_index, int c1, int activation, float threshold"

TORCH_LIBRARY(dpsim, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("halo_extend(Tensor h, Tensor row_ref, Tensor plan) -> Tensor", tags);
  m.def("halo_fold(Tensor g, Tensor owned_ref, Tensor plan) -> Tensor", tags);
  m.def("segment_sum(Tensor x, Tensor ptr, SymInt segments) -> Tensor", tags);
  m.def("segment_expand(Tensor y, Tensor ptr, SymInt items) -> Tensor", tags);
  m.def("segment_max(Tensor x, Tensor ptr, SymInt segments) -> Tensor", tags);
  m.def("gather_rows(Tensor x, Tensor index) -> Tensor", tags);
  m.def("scatter_rows(Tensor g, Tensor index, SymInt rows) -> Tensor", tags);
  m.def("edge_outer_sum(Tensor h, Tensor g, Tensor ptr, SymInt segments) -> Tensor", tags);
  m.def("edge_outer_dot(Tensor t, Tensor g, Tensor ptr) -> Tensor", tags);
  m.def("edge_outer_mix(Tensor t, Tensor h, Tensor ptr) -> Tensor", tags);
  m.def("pair_dot(Tensor q, Tensor k, Tensor edge_ptr, Tensor pair_ptr, SymInt pairs) -> Tensor", tags);
  m.def("pair_mix(Tensor p, Tensor v, Tensor edge_ptr, Tensor pair_ptr, bool transpose) -> Tensor", tags);
  m.def("tabulate(Tensor x, Tensor table, Tensor grid, int order) -> Tensor", tags);
  m.def("tabulate_dot(Tensor x, Tensor table, Tensor g, Tensor grid, int order) -> Tensor", tags);
  m.def("gather_act_reduce(" DPSIM_FUSED_SCHEMA ") -> (Tensor reduced, Tensor item)", tags);
  m.def("gather_act_reduce_backward(Tensor? grad_reduced, Tensor? grad_item, " DPSIM_FUSED_SCHEMA
        ") -> (Tensor dx, Tensor ds, Tensor db, Tensor dw)", tags);
  m.def("gather_act_reduce_double_backward(Tensor? ddx, Tensor? dds, Tensor? ddb, Tensor? ddw, "
        "Tensor? grad_reduced, Tensor? grad_item, " DPSIM_FUSED_SCHEMA
        ") -> (Tensor dgrad_reduced, Tensor dgrad_item, Tensor dx, Tensor ds, Tensor db, Tensor dw)", tags);
}

// The exchange knows devices by itself, so one function serves all of them.
TORCH_LIBRARY_IMPL(dpsim, CompositeExplicitAutograd, m) {
  m.impl("halo_extend", &dpsim::halo_extend);
  m.impl("halo_fold", &dpsim::halo_fold);
}

TORCH_LIBRARY_IMPL(dpsim, CPU, m) {
  m.impl("segment_sum", &dpsim::segment_sum);
  m.impl("segment_expand", &dpsim::segment_expand);
  m.impl("segment_max", &dpsim::segment_max);
  m.impl("gather_rows", &dpsim::gather_rows);
  m.impl("scatter_rows", &dpsim::scatter_rows);
  m.impl("edge_outer_sum", &dpsim::edge_outer_sum);
  m.impl("edge_outer_dot", &dpsim::edge_outer_dot);
  m.impl("edge_outer_mix", &dpsim::edge_outer_mix);
  m.impl("pair_dot", &dpsim::pair_dot);
  m.impl("pair_mix", &dpsim::pair_mix);
  m.impl("tabulate", &dpsim::tabulate);
  m.impl("tabulate_dot", &dpsim::tabulate_dot);
  m.impl("gather_act_reduce", &dpsim::gather_act_reduce);
  m.impl("gather_act_reduce_backward", &dpsim::gather_act_reduce_backward);
  m.impl("gather_act_reduce_double_backward", &dpsim::gather_act_reduce_double_backward);
}
