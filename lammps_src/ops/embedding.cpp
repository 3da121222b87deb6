// Operators of networks: sums of embeddings of neighbours, and products of rows with the matrix of their type.
#include "kernels/kernels.h"
#include "ops/checks.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

namespace dpsim {
namespace {

using at::Tensor;
using std::optional;

// ---- sums of embeddings -------------------------------------------------------------------------

#define DPSIM_EMBEDDING_ARGUMENTS                                                                            \
  const Tensor &x, const Tensor &r, const optional<Tensor> &kind, const Tensor &first, const Tensor &weights, \
      const Tensor &ptr

#define DPSIM_EMBEDDING_NETWORK at::IntArrayRef widths, bool skip, int64_t activation, double threshold

// The arguments that the operator and its derivatives share, checked and contiguous.
struct EmbeddingArguments {
  EmbeddingArguments(const char *name, DPSIM_EMBEDDING_ARGUMENTS, int64_t segments, DPSIM_EMBEDDING_NETWORK)
      : S(segments), widths_(widths), skip_(skip), activation_(activation), threshold_(threshold) {
    TORCH_CHECK(x.dim() == 1 && r.dim() == 2 && first.dim() == 2, name, ": x is ", x.sizes(), ", r is ", r.sizes(),
                " and first is ", first.sizes(), ", expected (items), (items, columns) and (kinds, width)");
    TORCH_CHECK(!widths.empty(), name, ": a network without layers");
    TORCH_CHECK(0 <= activation && activation <= 2, name, ": activation is ", activation, ", expected 0, 1 or 2");
    M = x.size(0), K = r.size(1), C = widths.back();
    int64_t size = widths[0];
    for (size_t l = 1; l < widths.size(); ++l) size += (widths[l - 1] + 1) * widths[l];
    x_ = x.contiguous();
    r_ = rows(name, "r", r, x, {M, K});
    first_ = rows(name, "first", first, x, {first.size(0), widths[0]});
    weights_ = rows(name, "weights", weights, x, {size});
    ptr_ = check_ptr(name, ptr, M, S);
    if (kind.has_value() && kind->defined()) {
      kind_ = check_index(name, *kind, M, first.size(0));
    } else {
      TORCH_CHECK(first.size(0) == 1, name, ": first has ", first.size(0), " rows, expected 1 where there are no kinds");
    }
  }

  template <typename T>
  kernels::Embedding<T> network() const {
    return {widths_.data(), static_cast<int64_t>(widths_.size()), first_.const_data_ptr<T>(), first_.size(0),
            weights_.const_data_ptr<T>(), skip_, static_cast<kernels::Activation>(activation_),
            static_cast<T>(threshold_)};
  }

  template <typename T>
  kernels::EmbeddedItems<T> items() const {
    return {x_.const_data_ptr<T>(), r_.const_data_ptr<T>(), kind_.defined() ? kind_.const_data_ptr<int64_t>() : nullptr,
            ptr_.const_data_ptr<int64_t>(), S, K};
  }

  Tensor empty(at::IntArrayRef sizes) const { return at::empty(sizes, x_.options()); }

  int64_t M, S, K, C;
  Tensor x_, r_, kind_, first_, weights_, ptr_;

 private:
  at::IntArrayRef widths_;
  bool skip_;
  int64_t activation_;
  double threshold_;
};

// Gradients with respect to items and parameters; those not asked for are empty.
struct EmbeddingGradients {
  EmbeddingGradients(const EmbeddingArguments &a, bool items, bool parameters)
      : x(a.empty({items ? a.M : 0})), r(a.empty({items ? a.M : 0, a.K})),
        first(parameters ? at::empty_like(a.first_) : a.empty({0, a.first_.size(1)})),
        weights(parameters ? at::empty_like(a.weights_) : a.empty({0})), items_(items), parameters_(parameters) {}

  template <typename T>
  kernels::EmbeddingGradient<T> plain() const {
    return {items_ ? x.data_ptr<T>() : nullptr, items_ ? r.data_ptr<T>() : nullptr,
            parameters_ ? first.data_ptr<T>() : nullptr, parameters_ ? weights.data_ptr<T>() : nullptr};
  }

  Tensor x, r, first, weights;

 private:
  bool items_, parameters_;
};

Tensor embedding_sum(DPSIM_EMBEDDING_ARGUMENTS, int64_t segments, DPSIM_EMBEDDING_NETWORK) {
  constexpr const char *name = "dpsim::embedding_sum";
  const EmbeddingArguments a(name, x, r, kind, first, weights, ptr, segments, widths, skip, activation, threshold);
  Tensor out = a.empty({a.S, a.K, a.C});
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::embedding_sum(a.network<scalar_t>(), a.items<scalar_t>(), out.data_ptr<scalar_t>());
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> embedding_sum_backward(const Tensor &t_, DPSIM_EMBEDDING_ARGUMENTS,
                                                                  DPSIM_EMBEDDING_NETWORK, bool items,
                                                                  bool parameters) {
  constexpr const char *name = "dpsim::embedding_sum_backward";
  TORCH_CHECK(t_.dim() == 3, name, ": t is ", t_.sizes(), ", expected (segments, columns of r, columns)");
  const EmbeddingArguments a(name, x, r, kind, first, weights, ptr, t_.size(0), widths, skip, activation, threshold);
  const Tensor t = rows(name, "t", t_, x, {a.S, a.K, a.C});
  const EmbeddingGradients d(a, items, parameters);
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::embedding_sum_backward(a.network<scalar_t>(), a.items<scalar_t>(), t.const_data_ptr<scalar_t>(),
                                    d.plain<scalar_t>());
  });
  return {d.x, d.r, d.first, d.weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> embedding_sum_double_backward(
    const optional<Tensor> &ux_, const optional<Tensor> &ur_, const Tensor &t_, DPSIM_EMBEDDING_ARGUMENTS,
    DPSIM_EMBEDDING_NETWORK, bool items, bool parameters) {
  constexpr const char *name = "dpsim::embedding_sum_double_backward";
  TORCH_CHECK(t_.dim() == 3, name, ": t is ", t_.sizes(), ", expected (segments, columns of r, columns)");
  const EmbeddingArguments a(name, x, r, kind, first, weights, ptr, t_.size(0), widths, skip, activation, threshold);
  const Tensor t = rows(name, "t", t_, x, {a.S, a.K, a.C});
  const Tensor ux = given(name, "ux", ux_, x, {a.M}), ur = given(name, "ur", ur_, x, {a.M, a.K});
  Tensor dt = a.empty({a.S, a.K, a.C});
  const EmbeddingGradients d(a, items, parameters);
  DPSIM_FLOAT(x.scalar_type(), name, [&] {
    kernels::embedding_sum_double_backward(a.network<scalar_t>(), a.items<scalar_t>(), t.const_data_ptr<scalar_t>(),
                                           data_or_null<scalar_t>(ux), data_or_null<scalar_t>(ur),
                                           dt.data_ptr<scalar_t>(), d.plain<scalar_t>());
  });
  return {dt, d.x, d.r, d.first, d.weights};
}

// ---- products of rows with the matrix of their type ---------------------------------------------

// Rows in the order of their types, and where those of each type begin.
struct ByType {
  ByType(const char *name, const Tensor &types_, int64_t N, int64_t n_types) : begin(n_types + 1, 0), order(N) {
    const Tensor types = check_index(name, types_, N, n_types);
    const int64_t *t = types.const_data_ptr<int64_t>();
    for (int64_t n = 0; n < N; ++n) ++begin[t[n] + 1];
    for (int64_t i = 0; i < n_types; ++i) begin[i + 1] += begin[i];
    auto next = begin;
    for (int64_t n = 0; n < N; ++n) order[next[t[n]]++] = n;
    sorted = std::is_sorted(order.begin(), order.end());
  }

  // The rows of x, sorted.
  Tensor rows(const Tensor &x_) const {
    const Tensor x = x_.contiguous();
    if (sorted) return x;
    Tensor out = at::empty_like(x);
    DPSIM_FLOAT(x.scalar_type(), "dpsim::ByType", [&] {
      kernels::gather_rows(x.const_data_ptr<scalar_t>(), order.data(), x.size(0), x.size(1), out.data_ptr<scalar_t>());
    });
    return out;
  }

  // Inverse of `rows`.
  Tensor back(const Tensor &x) const {
    if (sorted) return x;
    Tensor out = at::empty_like(x);
    DPSIM_FLOAT(x.scalar_type(), "dpsim::ByType", [&] {
      for (size_t i = 0; i < order.size(); ++i)
        std::copy_n(x.const_data_ptr<scalar_t>() + i * x.size(1), x.size(1),
                    out.data_ptr<scalar_t>() + order[i] * x.size(1));
    });
    return out;
  }

  // Those of type i.
  Tensor part(const Tensor &rows, int64_t i) const { return rows.narrow(0, begin[i], begin[i + 1] - begin[i]); }

  std::vector<int64_t> begin, order;
  bool sorted;
};

Tensor typed_matmul(const Tensor &x, at::TensorList weights, const Tensor &types, bool transpose) {
  constexpr const char *name = "dpsim::typed_matmul";
  TORCH_CHECK(x.dim() == 2 && !weights.empty() && weights[0].dim() == 2, name, ": x is ", x.sizes(),
              ", expected (rows, columns) and a matrix for each type");
  const int64_t in = weights[0].size(transpose ? 1 : 0), out = weights[0].size(transpose ? 0 : 1);
  TORCH_CHECK(x.size(1) == in, name, ": x has ", x.size(1), " columns, expected ", in);
  const ByType by_type(name, types, x.size(0), static_cast<int64_t>(weights.size()));
  const Tensor rows = by_type.rows(x);
  Tensor found = at::empty({x.size(0), out}, x.options());
  for (size_t i = 0; i < weights.size(); ++i) {
    TORCH_CHECK(weights[i].sizes() == weights[0].sizes() && weights[i].scalar_type() == x.scalar_type(), name,
                ": the matrix of type ", i, " is ", weights[i].scalar_type(), weights[i].sizes(), ", expected ",
                x.scalar_type(), weights[0].sizes());
    Tensor to = by_type.part(found, static_cast<int64_t>(i));
    if (to.size(0) > 0)
      at::mm_out(to, by_type.part(rows, static_cast<int64_t>(i)), transpose ? weights[i].t() : weights[i]);
  }
  return by_type.back(found);
}

Tensor typed_outer(const Tensor &x, const Tensor &g, const Tensor &types, int64_t n_types) {
  constexpr const char *name = "dpsim::typed_outer";
  TORCH_CHECK(x.dim() == 2 && g.dim() == 2 && x.size(0) == g.size(0) && x.scalar_type() == g.scalar_type(), name,
              ": x is ", x.scalar_type(), x.sizes(), " and g is ", g.scalar_type(), g.sizes(),
              ", expected (rows, in) and (rows, out)");
  const ByType by_type(name, types, x.size(0), n_types);
  const Tensor left = by_type.rows(x), right = by_type.rows(g);
  Tensor out = at::empty({n_types, x.size(1), g.size(1)}, x.options());
  for (int64_t i = 0; i < n_types; ++i) {
    Tensor to = out.select(0, i);
    at::mm_out(to, by_type.part(left, i).t(), by_type.part(right, i));
  }
  return out;
}

}  // namespace
}  // namespace dpsim

#define DPSIM_EMBEDDING_SCHEMA "Tensor x, Tensor r, Tensor? kind, Tensor first, Tensor weights, Tensor ptr, "
#define DPSIM_NETWORK_SCHEMA "int[] widths, bool skip, int activation, float threshold"
#define DPSIM_GRADIENT_SCHEMA "Tensor dx, Tensor dr, Tensor dfirst, Tensor dweights)"

TORCH_LIBRARY_FRAGMENT(dpsim, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("embedding_sum(" DPSIM_EMBEDDING_SCHEMA "SymInt segments, " DPSIM_NETWORK_SCHEMA ") -> Tensor", tags);
  m.def("embedding_sum_backward(Tensor t, " DPSIM_EMBEDDING_SCHEMA DPSIM_NETWORK_SCHEMA
        ", bool items, bool parameters) -> (" DPSIM_GRADIENT_SCHEMA, tags);
  m.def("embedding_sum_double_backward(Tensor? ux, Tensor? ur, Tensor t, " DPSIM_EMBEDDING_SCHEMA DPSIM_NETWORK_SCHEMA
        ", bool items, bool parameters) -> (Tensor dt, " DPSIM_GRADIENT_SCHEMA, tags);
  m.def("typed_matmul(Tensor x, Tensor[] weights, Tensor types, bool transpose) -> Tensor", tags);
  m.def("typed_outer(Tensor x, Tensor g, Tensor types, int n_types) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(dpsim, CPU, m) {
  m.impl("embedding_sum", &dpsim::embedding_sum);
  m.impl("embedding_sum_backward", &dpsim::embedding_sum_backward);
  m.impl("embedding_sum_double_backward", &dpsim::embedding_sum_double_backward);
  m.impl("typed_matmul", &dpsim::typed_matmul);
  m.impl("typed_outer", &dpsim::typed_outer);
}
