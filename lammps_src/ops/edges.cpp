// Operators on the edges of centres: their environment, and outer sums with weighted rows.
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

// ---- environment --------------------------------------------------------------------------------

#define DPSIM_ENVIRONMENT_ARGUMENTS                                                                                 \
  const Tensor &d, const Tensor &mean, const Tensor &scale, const Tensor &types, const Tensor &ptr, int64_t form,   \
      double start, double end, double protection

// The arguments that the operator and its derivatives share, checked and contiguous.
struct EnvironmentArguments {
  EnvironmentArguments(const char *name, DPSIM_ENVIRONMENT_ARGUMENTS)
      : fade{static_cast<kernels::Switch>(form), start, end, protection} {
    TORCH_CHECK(d.dim() == 2 && mean.dim() == 2 && types.dim() == 1, name, ": d is ", d.sizes(), ", mean is ",
                mean.sizes(), " and types is ", types.sizes(), ", expected (edges, 3), (types, columns) and (centres)");
    TORCH_CHECK(form == 0 || form == 1, name, ": form is ", form, ", expected 0 or 1");
    M = d.size(0), S = types.size(0), columns = mean.size(1);
    TORCH_CHECK(columns == 1 || columns == 4, name, ": mean has ", columns, " columns, expected 1 or 4");
    d_ = rows(name, "d", d, d, {M, 3});
    mean_ = rows(name, "mean", mean, d, {mean.size(0), columns});
    scale_ = rows(name, "scale", scale, d, {mean.size(0), columns});
    types_ = check_index(name, types, S, mean.size(0));
    ptr_ = check_ptr(name, ptr, M, S);
  }

  template <typename T>
  kernels::Environment<T> plain() const {
    return {d_.const_data_ptr<T>(), mean_.const_data_ptr<T>(), scale_.const_data_ptr<T>(),
            types_.const_data_ptr<int64_t>(), ptr_.const_data_ptr<int64_t>(), S, columns, fade};
  }

  Tensor empty(at::IntArrayRef sizes) const { return at::empty(sizes, d_.options()); }

  int64_t M, S, columns;
  Tensor d_, mean_, scale_, types_, ptr_;
  kernels::Fade fade;
};

// Cotangents of what the environment gives.
struct EnvironmentCotangents {
  EnvironmentCotangents(const char *name, const EnvironmentArguments &a, const optional<Tensor> &g_rows,
                        const optional<Tensor> &g_sw, const optional<Tensor> &g_r)
      : rows(given(name, "g_rows", g_rows, a.d_, {a.M, a.columns})), sw(given(name, "g_sw", g_sw, a.d_, {a.M})),
        r(given(name, "g_r", g_r, a.d_, {a.M})) {}

  template <typename T>
  kernels::EnvironmentGradient<const T> plain() const {
    return {data_or_null<T>(rows), data_or_null<T>(sw), data_or_null<T>(r)};
  }

  Tensor rows, sw, r;
};

std::tuple<Tensor, Tensor, Tensor> environment(DPSIM_ENVIRONMENT_ARGUMENTS) {
  constexpr const char *name = "dpsim::environment";
  const EnvironmentArguments a(name, d, mean, scale, types, ptr, form, start, end, protection);
  Tensor rows = a.empty({a.M, a.columns}), sw = a.empty({a.M}), r = a.empty({a.M});
  DPSIM_FLOAT(d.scalar_type(), name, [&] {
    kernels::environment(a.plain<scalar_t>(), rows.data_ptr<scalar_t>(), sw.data_ptr<scalar_t>(),
                         r.data_ptr<scalar_t>());
  });
  return {rows, sw, r};
}

Tensor environment_backward(const optional<Tensor> &g_rows, const optional<Tensor> &g_sw, const optional<Tensor> &g_r,
                            DPSIM_ENVIRONMENT_ARGUMENTS) {
  constexpr const char *name = "dpsim::environment_backward";
  const EnvironmentArguments a(name, d, mean, scale, types, ptr, form, start, end, protection);
  const EnvironmentCotangents g(name, a, g_rows, g_sw, g_r);
  Tensor dd = a.empty({a.M, 3});
  DPSIM_FLOAT(d.scalar_type(), name, [&] {
    kernels::environment_backward(a.plain<scalar_t>(), g.plain<scalar_t>(), dd.data_ptr<scalar_t>());
  });
  return dd;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> environment_double_backward(
    const Tensor &u_, const optional<Tensor> &g_rows, const optional<Tensor> &g_sw, const optional<Tensor> &g_r,
    DPSIM_ENVIRONMENT_ARGUMENTS, bool positions) {
  constexpr const char *name = "dpsim::environment_double_backward";
  const EnvironmentArguments a(name, d, mean, scale, types, ptr, form, start, end, protection);
  const EnvironmentCotangents g(name, a, g_rows, g_sw, g_r);
  const Tensor u = rows(name, "u", u_, d, {a.M, 3});
  // Of an absent cotangent nobody asks for the gradient.
  Tensor d_rows = a.empty({g.rows.defined() ? a.M : 0, a.columns});
  Tensor d_sw = a.empty({g.sw.defined() ? a.M : 0}), d_r = a.empty({g.r.defined() ? a.M : 0});
  Tensor dd = a.empty({positions ? a.M : 0, 3});
  DPSIM_FLOAT(d.scalar_type(), name, [&] {
    const kernels::EnvironmentGradient<scalar_t> dg{g.rows.defined() ? d_rows.data_ptr<scalar_t>() : nullptr,
                                                    g.sw.defined() ? d_sw.data_ptr<scalar_t>() : nullptr,
                                                    g.r.defined() ? d_r.data_ptr<scalar_t>() : nullptr};
    kernels::environment_double_backward(a.plain<scalar_t>(), u.const_data_ptr<scalar_t>(), g.plain<scalar_t>(), dg,
                                         positions ? dd.data_ptr<scalar_t>() : nullptr);
  });
  return {d_rows, d_sw, d_r, dd};
}

// ---- outer sums with weighted rows --------------------------------------------------------------

// The arguments that the operator and its derivatives share, checked and contiguous.
struct ConvolutionArguments {
  ConvolutionArguments(const char *name, const Tensor &h_, const Tensor &g_, const Tensor &weight_, const Tensor &ptr_,
                       int64_t segments)
      : S(segments) {
    TORCH_CHECK(h_.dim() == 2 && g_.dim() == 2 && weight_.dim() == 2, name, ": h is ", h_.sizes(), ", g is ",
                g_.sizes(), " and weight is ", weight_.sizes(),
                ", expected (edges, rows), (edges, columns) and (weighted rows, columns)");
    M = g_.size(0), C = g_.size(1), K = weight_.size(0), L = h_.size(1) - K;
    TORCH_CHECK(L >= 0, name, ": h has ", h_.size(1), " columns, expected at least as many as weight has rows (", K, ")");
    g = g_.contiguous();
    h = rows(name, "h", h_, g, {M, L + K});
    weight = rows(name, "weight", weight_, g, {K, C});
    ptr = check_ptr(name, ptr_, M, S);
  }

  template <typename T>
  kernels::Convolution<T> plain() const {
    return {h.const_data_ptr<T>(), g.const_data_ptr<T>(), weight.const_data_ptr<T>(), ptr.const_data_ptr<int64_t>(),
            S, L, K, C};
  }

  Tensor empty(at::IntArrayRef sizes) const { return at::empty(sizes, g.options()); }

  int64_t M, S, L, K, C;
  Tensor h, g, weight, ptr;
};

// Gradients with respect to edges and weights; those not asked for are empty.
struct ConvolutionGradients {
  ConvolutionGradients(const ConvolutionArguments &a, bool edges_, bool weights_)
      : edges(edges_), weights(weights_), h(a.empty({edges ? a.M : 0, a.L + a.K})), g(a.empty({edges ? a.M : 0, a.C})),
        weight(a.empty({weights ? a.K : 0, a.C})) {}

  template <typename T>
  T *of(const Tensor &t) const {
    return (&t == &weight ? weights : edges) ? t.data_ptr<T>() : nullptr;
  }

  bool edges, weights;
  Tensor h, g, weight;
};

std::tuple<Tensor, Tensor> convolution(const Tensor &h, const Tensor &g, const Tensor &weight, const Tensor &ptr,
                                       int64_t segments) {
  constexpr const char *name = "dpsim::edge_convolution";
  const ConvolutionArguments a(name, h, g, weight, ptr, segments);
  Tensor moments = a.empty({a.S, a.L, a.C}), sums = a.empty({a.S, a.C});
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::convolution(a.plain<scalar_t>(), moments.data_ptr<scalar_t>(), sums.data_ptr<scalar_t>());
  });
  return {moments, sums};
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor &t_moments_, const Tensor &t_sums_,
                                                        const Tensor &h, const Tensor &g, const Tensor &weight,
                                                        const Tensor &ptr, bool edges, bool weights) {
  constexpr const char *name = "dpsim::edge_convolution_backward";
  const ConvolutionArguments a(name, h, g, weight, ptr, t_sums_.size(0));
  const Tensor t_moments = rows(name, "t_moments", t_moments_, g, {a.S, a.L, a.C});
  const Tensor t_sums = rows(name, "t_sums", t_sums_, g, {a.S, a.C});
  const ConvolutionGradients d(a, edges, weights);
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::convolution_backward(a.plain<scalar_t>(), t_moments.const_data_ptr<scalar_t>(),
                                  t_sums.const_data_ptr<scalar_t>(), d.of<scalar_t>(d.h), d.of<scalar_t>(d.g),
                                  d.of<scalar_t>(d.weight));
  });
  return {d.h, d.g, d.weight};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> convolution_double_backward(
    const Tensor &uh_, const Tensor &ug_, const Tensor &t_moments_, const Tensor &t_sums_, const Tensor &h,
    const Tensor &g, const Tensor &weight, const Tensor &ptr, bool edges, bool weights) {
  constexpr const char *name = "dpsim::edge_convolution_double_backward";
  const ConvolutionArguments a(name, h, g, weight, ptr, t_sums_.size(0));
  const Tensor t_moments = rows(name, "t_moments", t_moments_, g, {a.S, a.L, a.C});
  const Tensor t_sums = rows(name, "t_sums", t_sums_, g, {a.S, a.C});
  const Tensor uh = rows(name, "uh", uh_, g, {a.M, a.L + a.K}), ug = rows(name, "ug", ug_, g, {a.M, a.C});
  Tensor d_moments = a.empty({a.S, a.L, a.C}), d_sums = a.empty({a.S, a.C});
  const ConvolutionGradients d(a, edges, weights);
  DPSIM_FLOAT(g.scalar_type(), name, [&] {
    kernels::convolution_double_backward(
        a.plain<scalar_t>(), uh.const_data_ptr<scalar_t>(), ug.const_data_ptr<scalar_t>(),
        t_moments.const_data_ptr<scalar_t>(), t_sums.const_data_ptr<scalar_t>(), d_moments.data_ptr<scalar_t>(),
        d_sums.data_ptr<scalar_t>(), d.of<scalar_t>(d.h), d.of<scalar_t>(d.g), d.of<scalar_t>(d.weight));
  });
  return {d_moments, d_sums, d.h, d.g, d.weight};
}

}  // namespace
}  // namespace dpsim

#define DPSIM_ENVIRONMENT_SCHEMA \
  "Tensor d, Tensor mean, Tensor scale, Tensor types, Tensor ptr, int form, float start, float end, float protection"
#define DPSIM_COTANGENT_SCHEMA "Tensor? g_rows, Tensor? g_sw, Tensor? g_r, "
#define DPSIM_CONVOLUTION_SCHEMA "Tensor h, Tensor g, Tensor weight, Tensor ptr"

TORCH_LIBRARY_FRAGMENT(dpsim, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("environment(" DPSIM_ENVIRONMENT_SCHEMA ") -> (Tensor rows, Tensor sw, Tensor r)", tags);
  m.def("environment_backward(" DPSIM_COTANGENT_SCHEMA DPSIM_ENVIRONMENT_SCHEMA ") -> Tensor", tags);
  m.def("environment_double_backward(Tensor u, " DPSIM_COTANGENT_SCHEMA DPSIM_ENVIRONMENT_SCHEMA
        ", bool positions) -> (Tensor dg_rows, Tensor dg_sw, Tensor dg_r, Tensor dd)", tags);
  m.def("edge_convolution(" DPSIM_CONVOLUTION_SCHEMA ", SymInt segments) -> (Tensor moments, Tensor sums)", tags);
  m.def("edge_convolution_backward(Tensor t_moments, Tensor t_sums, " DPSIM_CONVOLUTION_SCHEMA
        ", bool edges, bool weights) -> (Tensor dh, Tensor dg, Tensor dweight)", tags);
  m.def("edge_convolution_double_backward(Tensor uh, Tensor ug, Tensor t_moments, Tensor t_sums, "
        DPSIM_CONVOLUTION_SCHEMA ", bool edges, bool weights) "
        "-> (Tensor dt_moments, Tensor dt_sums, Tensor dh, Tensor dg, Tensor dweight)", tags);
}

TORCH_LIBRARY_IMPL(dpsim, CPU, m) {
  m.impl("environment", &dpsim::environment);
  m.impl("environment_backward", &dpsim::environment_backward);
  m.impl("environment_double_backward", &dpsim::environment_double_backward);
  m.impl("edge_convolution", &dpsim::convolution);
  m.impl("edge_convolution_backward", &dpsim::convolution_backward);
  m.impl("edge_convolution_double_backward", &dpsim::convolution_double_backward);
}
