// dpsim's basic operators; others stand in ops_*.cpp. Tensors are checked and allocated here, computed in kernels*.cpp,
// and registered with torch's dispatcher at the end.
//
// Fake kernels and derivatives are registered from Python (dpsim/ops): they are needed where
// graphs are traced, never where an exported model runs.
#include "halo/registry.h"
#include "kernels/kernels.h"
#include "ops/checks.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include <vector>

namespace dpsim {
namespace {

using at::Tensor;

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
  TORCH_CHECK(g_.dim() == 2 && h_.dim() == 2, name, ": h is ", h_.sizes(), " and g is ", g_.sizes(),
              ", expected (edges, rows) and (edges, columns)");
  const int64_t M = g_.size(0), C = g_.size(1), K = h_.size(1);
  const Tensor g = g_.contiguous(), h = rows(name, "h", h_, g, {M, K}), ptr = check_ptr(name, ptr_, M, S);
  Tensor out = at::empty({S, K, C}, g.options());
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::outer_sum(h.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K,
                       C, out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor edge_outer_dot(const Tensor &t_, const Tensor &g_, const Tensor &ptr_) {
  constexpr const char *name = "dpsim::edge_outer_dot";
  TORCH_CHECK(g_.dim() == 2 && t_.dim() == 3, name, ": t is ", t_.sizes(), " and g is ", g_.sizes(),
              ", expected (segments, rows, columns) and (edges, columns)");
  const int64_t M = g_.size(0), C = g_.size(1), S = t_.size(0), K = t_.size(1);
  const Tensor g = g_.contiguous(), ptr = check_ptr(name, ptr_, M, S);
  const Tensor t = rows(name, "t", t_, g, {S, K, C});
  Tensor out = at::empty({M, K}, g.options());
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::outer_dot(t.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K,
                       C, out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor edge_outer_mix(const Tensor &t_, const Tensor &h_, const Tensor &ptr_) {
  constexpr const char *name = "dpsim::edge_outer_mix";
  TORCH_CHECK(t_.dim() == 3 && h_.dim() == 2, name, ": t is ", t_.sizes(), " and h is ", h_.sizes(),
              ", expected (segments, rows, columns) and (edges, rows)");
  const int64_t M = h_.size(0), K = t_.size(1), C = t_.size(2), S = t_.size(0);
  const Tensor ptr = check_ptr(name, ptr_, M, S);
  const Tensor t = t_.contiguous(), h = rows(name, "h", h_, t_, {M, K});
  Tensor out = at::empty({M, C}, t.options());
  DPSIM_FLOAT(t.scalar_type(), name, [&] {
    kernels::outer_mix(t.const_data_ptr<scalar_t>(), h.const_data_ptr<scalar_t>(), ptr.const_data_ptr<int64_t>(), S, K,
                       C, out.data_ptr<scalar_t>());
  });
  return out;
}

// The same with rows of g that several edges share, by an index.

Tensor neighbor_outer_sum(const Tensor &h_, const Tensor &g_, const Tensor &ptr_, const Tensor &index_, int64_t S) {
  constexpr const char *name = "dpsim::neighbor_outer_sum";
  TORCH_CHECK(g_.dim() == 2, name, ": g is ", g_.sizes(), ", expected (rows, columns)");
  const int64_t M = index_.numel(), R = g_.size(0), K = g_.size(1);
  const Tensor ptr = check_ptr(name, ptr_, M, S), index = check_index(name, index_, M, R);
  const Tensor g = g_.contiguous(), h = rows(name, "h", h_, g, {M, 3});
  Tensor out = at::empty({S, 3, K}, g.options());
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::neighbor_sum(h.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(), index.const_data_ptr<int64_t>(),
                       ptr.const_data_ptr<int64_t>(), S, K, out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor neighbor_outer_dot(const Tensor &t_, const Tensor &g_, const Tensor &ptr_, const Tensor &index_) {
  constexpr const char *name = "dpsim::neighbor_outer_dot";
  TORCH_CHECK(t_.dim() == 3 && g_.dim() == 2, name, ": t is ", t_.sizes(), " and g is ", g_.sizes(),
              ", expected (segments, 3, columns) and (rows, columns)");
  const int64_t M = index_.numel(), R = g_.size(0), K = g_.size(1), S = t_.size(0);
  const Tensor ptr = check_ptr(name, ptr_, M, S), index = check_index(name, index_, M, R);
  const Tensor g = g_.contiguous(), t = rows(name, "t", t_, g, {S, 3, K});
  Tensor out = at::empty({M, 3}, g.options());
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::neighbor_dot(t.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(), index.const_data_ptr<int64_t>(),
                       ptr.const_data_ptr<int64_t>(), S, K, out.data_ptr<scalar_t>());
  });
  return out;
}

Tensor neighbor_outer_mix(const Tensor &t_, const Tensor &h_, const Tensor &ptr_, const Tensor &index_, int64_t R) {
  constexpr const char *name = "dpsim::neighbor_outer_mix";
  TORCH_CHECK(t_.dim() == 3, name, ": t is ", t_.sizes(), ", expected (segments, 3, columns)");
  const int64_t M = index_.numel(), K = t_.size(2), S = t_.size(0);
  const Tensor ptr = check_ptr(name, ptr_, M, S), index = check_index(name, index_, M, R);
  const Tensor t = t_.contiguous(), h = rows(name, "h", h_, t, {M, 3});
  Tensor out = at::empty({R, K}, t.options());
  DPSIM_FLOAT(t.scalar_type(), name, [&] {
    kernels::neighbor_mix(t.const_data_ptr<scalar_t>(), h.const_data_ptr<scalar_t>(),
                            index.const_data_ptr<int64_t>(), ptr.const_data_ptr<int64_t>(), S, R, K,
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

}  // namespace
}  // namespace dpsim

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
  m.def("neighbor_outer_sum(Tensor h, Tensor g, Tensor ptr, Tensor index, SymInt segments) -> Tensor", tags);
  m.def("neighbor_outer_dot(Tensor t, Tensor g, Tensor ptr, Tensor index) -> Tensor", tags);
  m.def("neighbor_outer_mix(Tensor t, Tensor h, Tensor ptr, Tensor index, SymInt rows) -> Tensor", tags);
  m.def("pair_dot(Tensor q, Tensor k, Tensor edge_ptr, Tensor pair_ptr, SymInt pairs) -> Tensor", tags);
  m.def("pair_mix(Tensor p, Tensor v, Tensor edge_ptr, Tensor pair_ptr, bool transpose) -> Tensor", tags);
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
  m.impl("neighbor_outer_sum", &dpsim::neighbor_outer_sum);
  m.impl("neighbor_outer_dot", &dpsim::neighbor_outer_dot);
  m.impl("neighbor_outer_mix", &dpsim::neighbor_outer_mix);
  m.impl("pair_dot", &dpsim::pair_dot);
  m.impl("pair_mix", &dpsim::pair_mix);
}
