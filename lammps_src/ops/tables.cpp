// Operators on functions of one number from tables.
#include "kernels/kernels.h"
#include "ops/checks.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

namespace dpsim {
namespace {

using at::Tensor;
using std::optional;

// ---- the functions ------------------------------------------------------------------------------

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

// ---- sums of outer products with them ------------------------------------------------------------

// The arguments that the sum and its derivatives share, checked and contiguous.
struct TableArguments {
  TableArguments(const char *name, const Tensor &x_, const Tensor &r_, const Tensor &table_, const Tensor &grid_,
                 const Tensor &ptr_, int64_t segments)
      : S(segments) {
    TORCH_CHECK(x_.dim() == 1 && r_.dim() == 2 && table_.dim() == 3, name, ": x is ", x_.sizes(), ", r is ",
                r_.sizes(), " and table is ", table_.sizes(),
                ", expected (items), (items, rows) and (intervals, 6, columns)");
    M = x_.size(0), K = r_.size(1), C = table_.size(2);
    TORCH_CHECK(1 <= K && K <= kernels::kTableRows, name, ": r has ", K, " columns, expected 1..", kernels::kTableRows);
    x = x_.contiguous();
    r = rows(name, "r", r_, x, {M, K});
    table = rows(name, "table", table_, x, {table_.size(0), kTableTerms, C});
    ptr = check_ptr(name, ptr_, M, S);
    grid = table_grid(name, grid_, table.size(0));
  }

  template <typename T>
  kernels::TableItems<T> plain() const {
    return {x.const_data_ptr<T>(), r.const_data_ptr<T>(), table.const_data_ptr<T>(), ptr.const_data_ptr<int64_t>(),
            S, K, C, grid};
  }

  Tensor empty(at::IntArrayRef sizes) const { return at::empty(sizes, x.options()); }

  int64_t M, S, K, C;
  Tensor x, r, table, ptr;
  kernels::TableGrid grid;
};

Tensor tabulate_sum(const Tensor &x, const Tensor &r, const Tensor &table, const Tensor &grid, const Tensor &ptr,
                    int64_t segments) {
  constexpr const char *name = "dpsim::tabulate_sum";
  const TableArguments a(name, x, r, table, grid, ptr, segments);
  Tensor out = a.empty({a.S, a.K, a.C});
  DPSIM_FLOAT(x.scalar_type(), name, [&] { kernels::tabulate_sum(a.plain<scalar_t>(), out.data_ptr<scalar_t>()); });
  return out;
}

std::tuple<Tensor, Tensor> tabulate_sum_backward(const Tensor &t_, const Tensor &x, const Tensor &r,
                                                 const Tensor &table, const Tensor &grid, const Tensor &ptr) {
  constexpr const char *name = "dpsim::tabulate_sum_backward";
  TORCH_CHECK(t_.dim() == 3, name, ": t is ", t_.sizes(), ", expected (segments, rows, columns)");
  const TableArguments a(name, x, r, table, grid, ptr, t_.size(0));
  const Tensor t = rows(name, "t", t_, x, {a.S, a.K, a.C});
  Tensor dx = a.empty({a.M}), dr = a.empty({a.M, a.K});
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::tabulate_sum_backward(a.plain<scalar_t>(), t.const_data_ptr<scalar_t>(), dx.data_ptr<scalar_t>(),
                                   dr.data_ptr<scalar_t>());
  });
  return {dx, dr};
}

std::tuple<Tensor, Tensor, Tensor> tabulate_sum_double_backward(const optional<Tensor> &ux_,
                                                                const optional<Tensor> &ur_, const Tensor &t_,
                                                                const Tensor &x, const Tensor &r, const Tensor &table,
                                                                const Tensor &grid, const Tensor &ptr) {
  constexpr const char *name = "dpsim::tabulate_sum_double_backward";
  TORCH_CHECK(t_.dim() == 3, name, ": t is ", t_.sizes(), ", expected (segments, rows, columns)");
  const TableArguments a(name, x, r, table, grid, ptr, t_.size(0));
  const Tensor t = rows(name, "t", t_, x, {a.S, a.K, a.C});
  const Tensor ux = given(name, "ux", ux_, x, {a.M}), ur = given(name, "ur", ur_, x, {a.M, a.K});
  Tensor dt = a.empty({a.S, a.K, a.C}), dx = a.empty({a.M}), dr = a.empty({a.M, a.K});
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::tabulate_sum_double_backward(a.plain<scalar_t>(), data_or_null<scalar_t>(ux), data_or_null<scalar_t>(ur),
                                          t.const_data_ptr<scalar_t>(), dt.data_ptr<scalar_t>(),
                                          dx.data_ptr<scalar_t>(), dr.data_ptr<scalar_t>());
  });
  return {dt, dx, dr};
}

}  // namespace
}  // namespace dpsim

TORCH_LIBRARY_FRAGMENT(dpsim, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("tabulate(Tensor x, Tensor table, Tensor grid, int order) -> Tensor", tags);
  m.def("tabulate_dot(Tensor x, Tensor table, Tensor g, Tensor grid, int order) -> Tensor", tags);
  m.def("tabulate_sum(Tensor x, Tensor r, Tensor table, Tensor grid, Tensor ptr, SymInt segments) -> Tensor", tags);
  m.def("tabulate_sum_backward(Tensor t, Tensor x, Tensor r, Tensor table, Tensor grid, Tensor ptr) "
        "-> (Tensor dx, Tensor dr)", tags);
  m.def("tabulate_sum_double_backward(Tensor? ux, Tensor? ur, Tensor t, Tensor x, Tensor r, Tensor table, Tensor grid, "
        "Tensor ptr) -> (Tensor dt, Tensor dx, Tensor dr)", tags);
}

TORCH_LIBRARY_IMPL(dpsim, CPU, m) {
  m.impl("tabulate", &dpsim::tabulate);
  m.impl("tabulate_dot", &dpsim::tabulate_dot);
  m.impl("tabulate_sum", &dpsim::tabulate_sum);
  m.impl("tabulate_sum_backward", &dpsim::tabulate_sum_backward);
  m.impl("tabulate_sum_double_backward", &dpsim::tabulate_sum_double_backward);
}
