// dpsim::message and its derivatives: gather_act_reduce of x = a @ weight, without x.
//
// Items are gone through in chunks of whole segments whose products fit into the cache; nothing of
// the size of x is ever there, and derivatives make it once more. Chunks, and the parts into which
// they are gathered for the threads, depend on the pointers alone, so that results are the same for
// any number of threads.
#include "ops_fused.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

namespace dpsim {
namespace {

using at::Tensor;
using std::optional;

// ---- chunks and parts -------------------------------------------------------------------------------

constexpr int64_t kFewItems = 256, kManyItems = 1024;  // of a chunk
constexpr int64_t kMostParts = 32, kFewParts = 8;

// Runs of segments. A cut is a border between segments that no row of b is used on both sides of:
// if all borders of parts are cuts, parts may add to the gradient of b at the same time.
class Chunks {
 public:
  explicit Chunks(const FusedArguments &a)
      : ptr_(a.ptr.const_data_ptr<int64_t>()), cut_(cuts(a)) {
    for (int64_t t = 1; t <= a.S; ++t) {
      const int64_t items = ptr_[t] - ptr_[border_.back()];
      if (t == a.S || items >= kManyItems || (items >= kFewItems && cut_[t])) border_.push_back(t);
    }
    disjoint = gather(a.M, true);
    if (!disjoint) gather(a.M, false);
    for (size_t k = 0; k + 1 < border_.size(); ++k) longest = std::max(longest, items(k));
  }

  int64_t parts() const { return static_cast<int64_t>(part_.size()) - 1; }
  int64_t first_item(size_t k) const { return ptr_[border_[k]]; }
  int64_t items(size_t k) const { return ptr_[border_[k + 1]] - ptr_[border_[k]]; }
  kernels::Segments segments(size_t k) const { return {border_[k], border_[k + 1]}; }

  // f(chunk) for the chunks of a part.
  template <typename F>
  void each(int64_t part, const F &f) const {
    for (size_t k = part_[part]; k < part_[part + 1]; ++k) f(k);
  }

  int64_t longest = 0;
  bool disjoint = false;

 private:
  static std::vector<bool> cuts(const FusedArguments &a) {
    const int64_t *ptr = a.ptr.const_data_ptr<int64_t>(), *index = a.b_index.const_data_ptr<int64_t>();
    std::vector<int64_t> least(a.S + 1, std::numeric_limits<int64_t>::max());  // row used from a segment on
    for (int64_t t = a.S - 1; t >= 0; --t) {
      least[t] = least[t + 1];
      for (int64_t m = ptr[t]; m < ptr[t + 1]; ++m) least[t] = std::min(least[t], index[m]);
    }
    std::vector<bool> found(a.S + 1);
    int64_t most = -1;  // row used before a segment
    for (int64_t t = 0; t <= a.S; ++t) {
      found[t] = most < least[t];
      for (int64_t m = ptr[t]; t < a.S && m < ptr[t + 1]; ++m) most = std::max(most, index[m]);
    }
    return found;
  }

  // Gathers chunks into parts of similar size; whether there are enough of them.
  bool gather(int64_t M, bool at_cuts) {
    part_.assign(1, 0);
    const size_t chunks = border_.size() - 1;
    int64_t begin = 0;
    for (size_t k = 1; k <= chunks; ++k) {
      const int64_t end = ptr_[border_[k]];
      const bool enough = (end - begin) * kMostParts >= M && (!at_cuts || cut_[border_[k]]);
      if (k == chunks || enough) part_.push_back(k), begin = end;
    }
    return parts() >= std::min<int64_t>(kFewParts, static_cast<int64_t>(chunks));
  }

  const int64_t *ptr_;
  std::vector<bool> cut_;
  std::vector<int64_t> border_{0};
  std::vector<size_t> part_;
};

// f(part) for all parts, shared among threads.
template <typename F>
void for_parts(const Chunks &chunks, const F &f) {
  at::parallel_for(0, chunks.parts(), 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView below;  // the products in here are not differentiated
    for (int64_t part = begin; part < end; ++part) f(part);
  });
}

// ---- arguments and gradients --------------------------------------------------------------------------

struct Arguments : FusedArguments {
  Arguments(const char *name, const Tensor &a_, const Tensor &weight_, const Tensor &s_, const Tensor &b_,
            const Tensor &w_, const optional<Tensor> &scale_, const Tensor &ptr_, const Tensor &b_index_, int64_t c1_,
            int64_t activation_, double threshold_)
      : FusedArguments(name, matrix(name, a_, weight_), a_.size(0), weight_.size(1), s_, b_, w_, ptr_, b_index_, c1_,
                       activation_, threshold_, scale_),
        K(a_.size(1)),
        a(a_.contiguous()),
        weight(rows(name, "weight", weight_, a_, {K, C})),
        chunks(*this) {}

  static const Tensor &matrix(const char *name, const Tensor &a, const Tensor &weight) {
    TORCH_CHECK(a.dim() == 2 && weight.dim() == 2, name, ": a and weight must have two dimensions");
    return a;
  }

  Tensor scratch() const { return empty({chunks.longest, C}); }

  // Rows of a tensor that belong to the items of a chunk, and as many rows of a scratch tensor.
  Tensor of(const Tensor &t, size_t k) const { return t.narrow(0, chunks.first_item(k), chunks.items(k)); }
  Tensor part_of(const Tensor &scratch, size_t k) const { return scratch.narrow(0, 0, chunks.items(k)); }

  // Product of the rows of a chunk with a matrix, in a scratch tensor.
  Tensor times(const Tensor &t, const Tensor &matrix, Tensor &scratch, size_t k) const {
    Tensor product = part_of(scratch, k);
    at::mm_out(product, of(t, k), matrix);
    return product;
  }

  int64_t K;
  Tensor a, weight;
  Chunks chunks;
};

// Gradients that several items add to. Those of parameters are kept for each part and added at the
// end; that of b is added to directly where no two threads can meet, otherwise from the dx of all items.
struct Gradients {
  Gradients(const Arguments &g_, bool parameters_)
      : g(g_), parameters(parameters_),
        direct(g.chunks.disjoint || at::get_num_threads() == 1 || at::in_parallel_region()),
        da(g.empty({g.M, g.K})), ds(g.empty({g.S, g.C})), dw(g.empty({g.M})),
        db(direct ? at::zeros({g.B, g.C}, g.options) : g.empty({g.B, g.C})) {
    if (!direct) dx_of_all = g.empty({g.M, g.C});
    const int64_t n = parameters ? g.chunks.parts() : 0;
    dweights = at::zeros({n, g.K, g.C}, g.options);
    dscales = at::zeros({n, g.C - g.c1}, g.options);
  }

  // dx of a chunk is made in a scratch tensor in either case: products may depend on alignment.
  void keep(const Tensor &dx, size_t k) {
    if (!direct) g.of(dx_of_all, k).copy_(dx);
  }

  template <typename T>
  kernels::FusedGradients<T> plain(const Tensor &dx, int64_t part) {
    T *scale = parameters ? dscales.data_ptr<T>() + part * (g.C - g.c1) : nullptr;
    return {dx.data_ptr<T>(), ds.data_ptr<T>(), direct ? db.data_ptr<T>() : nullptr, dw.data_ptr<T>(), scale};
  }

  // Adds the product of the rows of a chunk, turned, with others to the gradient of the weight.
  void add_product(int64_t part, const Tensor &left, const Tensor &right) {
    if (!parameters) return;
    Tensor sum = dweights.select(0, part);
    at::addmm_out(sum, sum, left.t(), right);
  }

  template <typename T>
  void finish() {
    if (!direct)
      kernels::scatter_rows(dx_of_all.const_data_ptr<T>(), g.b_index.const_data_ptr<int64_t>(), g.M, g.B, g.C,
                            db.data_ptr<T>());
  }

  Tensor dweight() const { return total(dweights, {g.K, g.C}); }
  Tensor dscale() const { return total(dscales, {g.C - g.c1}); }

  // One after the other, whatever the number of threads; without rows if not asked for.
  Tensor total(const Tensor &parts, at::IntArrayRef sizes) const {
    if (!parameters) return g.empty({0});
    Tensor sum = at::zeros(sizes, g.options);
    for (int64_t part = 0; part < parts.size(0); ++part) sum.add_(parts.select(0, part));
    return sum;
  }

  const Arguments &g;
  bool parameters, direct;
  Tensor da, ds, dw, db, dx_of_all, dweights, dscales;
};

// ---- operators ------------------------------------------------------------------------------------------

#define DPSIM_ARGUMENTS                                                                                              \
  const Tensor &a, const Tensor &weight, const Tensor &s, const Tensor &b, const Tensor &w,                          \
      const optional<Tensor> &scale, const Tensor &ptr, const Tensor &b_index, int64_t c1, int64_t activation, \
      double threshold

std::tuple<Tensor, Tensor> message(const optional<Tensor> &base_, DPSIM_ARGUMENTS) {
  constexpr const char *name = "dpsim::message";
  const Arguments g(name, a, weight, s, b, w, scale, ptr, b_index, c1, activation, threshold);
  const Tensor base = is_given(base_) ? rows(name, "base", *base_, g.a, {g.M, g.C - c1}) : Tensor();
  Tensor reduced = g.empty({g.S, c1}), item = g.empty({g.M, g.C - c1});
  DPSIM_FLOAT(g.a.scalar_type(), name, [&] {
    const scalar_t *old = base.defined() ? base.const_data_ptr<scalar_t>() : nullptr;
    scalar_t *to_reduced = reduced.data_ptr<scalar_t>(), *to_item = item.data_ptr<scalar_t>();
    for_parts(g.chunks, [&](int64_t part) {
      Tensor scratch = g.scratch();
      g.chunks.each(part, [&](size_t k) {
        const Tensor x = g.times(g.a, g.weight, scratch, k);
        const auto f = g.plain(x.const_data_ptr<scalar_t>(), g.chunks.first_item(k));
        kernels::fused_forward(f, g.chunks.segments(k), old, to_reduced, to_item);
      });
    });
  });
  return {reduced, item};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> message_backward(const optional<Tensor> &grad_reduced,
                                                                            const optional<Tensor> &grad_item,
                                                                            DPSIM_ARGUMENTS, bool parameters) {
  constexpr const char *name = "dpsim::message_backward";
  const Arguments g(name, a, weight, s, b, w, scale, ptr, b_index, c1, activation, threshold);
  const Cotangent go(name, "grad_reduced", grad_reduced, g.a, {g.S, c1});
  const Cotangent gi(name, "grad_item", grad_item, g.a, {g.M, g.C - c1});
  Gradients d(g, parameters);
  const Tensor turned = g.weight.t();
  DPSIM_FLOAT(g.a.scalar_type(), name, [&] {
    for_parts(g.chunks, [&](int64_t part) {
      Tensor scratch = g.scratch(), dx_scratch = g.scratch();
      g.chunks.each(part, [&](size_t k) {
        const Tensor x = g.times(g.a, g.weight, scratch, k), dx = g.part_of(dx_scratch, k);
        const auto f = g.plain(x.const_data_ptr<scalar_t>(), g.chunks.first_item(k));
        kernels::fused_backward(f, g.chunks.segments(k), go.plain<scalar_t>(), gi.plain<scalar_t>(),
                                d.plain<scalar_t>(dx, part));
        d.keep(dx, k);
        Tensor da = g.of(d.da, k);
        at::mm_out(da, dx, turned);
        d.add_product(part, g.of(g.a, k), dx);
      });
    });
    d.finish<scalar_t>();
  });
  return {d.da, d.dweight(), d.ds, d.db, d.dw, d.dscale()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> message_double_backward(
    const optional<Tensor> &dda_, const optional<Tensor> &ddweight_, const optional<Tensor> &dds_,
    const optional<Tensor> &ddb_, const optional<Tensor> &ddw_, const optional<Tensor> &ddscale_,
    const optional<Tensor> &grad_reduced, const optional<Tensor> &grad_item, DPSIM_ARGUMENTS, bool parameters) {
  constexpr const char *name = "dpsim::message_double_backward";
  const Arguments g(name, a, weight, s, b, w, scale, ptr, b_index, c1, activation, threshold);
  const Cotangent dds(name, "dds", dds_, g.a, {g.S, g.C}), ddb(name, "ddb", ddb_, g.a, {g.B, g.C});
  const Cotangent ddw(name, "ddw", ddw_, g.a, {g.M}), zero(name, "ddx", std::nullopt, g.a, {g.M, g.C});
  const Tensor ddscale = is_given(ddscale_) ? rows(name, "ddscale", *ddscale_, g.a, {g.C - c1})
                                            : at::zeros({g.C - c1}, g.options);
  const Tensor dda = is_given(dda_) ? rows(name, "dda", *dda_, g.a, {g.M, g.K}) : Tensor();
  const Tensor ddweight = is_given(ddweight_) ? rows(name, "ddweight", *ddweight_, g.a, {g.K, g.C}) : Tensor();
  const Cotangent go(name, "grad_reduced", grad_reduced, g.a, {g.S, c1});
  const Cotangent gi(name, "grad_item", grad_item, g.a, {g.M, g.C - c1});
  // Without grad_item nobody asks for its gradient, which would be large.
  const bool items = is_given(grad_item), first_needed = ddweight.defined() || (parameters && dda.defined());
  Tensor dgo = g.empty({g.S, c1}), dgi = g.empty({items ? g.M : 0, g.C - c1});
  Gradients d(g, parameters);
  const Tensor turned = g.weight.t();
  DPSIM_FLOAT(g.a.scalar_type(), name, [&] {
    scalar_t *to_dgo = dgo.data_ptr<scalar_t>(), *to_dgi = items ? dgi.data_ptr<scalar_t>() : nullptr;
    for_parts(g.chunks, [&](int64_t part) {
      Tensor scratch = g.scratch(), ddx_scratch = g.scratch(), dx_scratch = g.scratch();
      Tensor first_scratch = first_needed ? g.scratch() : Tensor();
      g.chunks.each(part, [&](size_t k) {
        const Tensor x = g.times(g.a, g.weight, scratch, k), dx = g.part_of(dx_scratch, k);
        kernels::Rows<scalar_t> ddx = zero.plain<scalar_t>();
        if (dda.defined() || ddweight.defined()) {
          Tensor sum = g.times(dda.defined() ? dda : g.a, dda.defined() ? g.weight : ddweight, ddx_scratch, k);
          if (dda.defined() && ddweight.defined()) at::addmm_out(sum, sum, g.of(g.a, k), ddweight);
          ddx = {sum.const_data_ptr<scalar_t>(), g.C};
        }
        const Tensor first = first_needed ? g.part_of(first_scratch, k) : Tensor();
        const kernels::FusedCotangents<scalar_t> u{ddx, dds.plain<scalar_t>(), ddb.plain<scalar_t>(),
                                                   ddw.plain<scalar_t>(), {ddscale.const_data_ptr<scalar_t>(), 0}};
        kernels::fused_double_backward(g.plain(x.const_data_ptr<scalar_t>(), g.chunks.first_item(k)),
                                       g.chunks.segments(k), u, go.plain<scalar_t>(), gi.plain<scalar_t>(), to_dgo,
                                       to_dgi, first_needed ? first.data_ptr<scalar_t>() : nullptr,
                                       d.plain<scalar_t>(dx, part));
        d.keep(dx, k);
        Tensor da = g.of(d.da, k);
        at::mm_out(da, dx, turned);
        if (ddweight.defined()) at::addmm_out(da, da, first, ddweight.t());
        d.add_product(part, g.of(g.a, k), dx);
        if (dda.defined()) d.add_product(part, g.of(dda, k), first);
      });
    });
    d.finish<scalar_t>();
  });
  return {dgo, dgi, d.da, d.dweight(), d.ds, d.db, d.dw, d.dscale()};
}

}  // namespace
}  // namespace dpsim

#define DPSIM_SCHEMA                                                                                          \
  "Tensor a, Tensor weight, Tensor s, Tensor b, Tensor w, Tensor? scale, Tensor ptr, Tensor b_index, int c1, " \
  "int activation, float threshold"
#define DPSIM_GRADIENTS "Tensor da, Tensor dweight, Tensor ds, Tensor db, Tensor dw, Tensor dscale"

TORCH_LIBRARY_FRAGMENT(dpsim, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("message(Tensor? base, " DPSIM_SCHEMA ") -> (Tensor reduced, Tensor item)", tags);
  m.def("message_backward(Tensor? grad_reduced, Tensor? grad_item, " DPSIM_SCHEMA
        ", bool parameters) -> (" DPSIM_GRADIENTS ")", tags);
  m.def("message_double_backward(Tensor? dda, Tensor? ddweight, Tensor? dds, Tensor? ddb, Tensor? ddw, "
        "Tensor? ddscale, Tensor? grad_reduced, Tensor? grad_item, " DPSIM_SCHEMA
        ", bool parameters) -> (Tensor dgrad_reduced, Tensor dgrad_item, " DPSIM_GRADIENTS ")", tags);
}

TORCH_LIBRARY_IMPL(dpsim, CPU, m) {
  m.impl("message", &dpsim::message);
  m.impl("message_backward", &dpsim::message_backward);
  m.impl("message_double_backward", &dpsim::message_double_backward);
}
