// dpsim::message and its derivatives: gather_act_reduce of x = a @ weight, without x.
//
// Items are gone through in chunks of whole segments whose products fit into the cache; nothing of
// the size of x is ever there, and derivatives make it once more. Chunks, and the parts into which
// they are gathered for the threads, depend on the pointers alone, so that results are the same for
// any number of threads.
#include "ops/fused.h"

#include <ATen/Parallel.h>
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

  int64_t K;
  Tensor a, weight;
  Chunks chunks;
};

// A chunk at work: products of the rows of its items.
template <typename T>
struct Chunk {
  Chunk(const Arguments &g_, size_t k) : g(g_), first(g.chunks.first_item(k)), items(g.chunks.items(k)) {}

  // out (items, columns) = rows of t (M, terms) @ matrix (terms, columns), added to what is there if `add`.
  void product(const Tensor &t, const Tensor &matrix, T *out, bool add = false) const {
    product(t.const_data_ptr<T>() + first * matrix.size(0), matrix, out, add);
  }
  // The same of rows that are those of the chunk.
  void product(const T *t, const Tensor &matrix, T *out, bool add = false) const {
    const int64_t terms = matrix.size(0);
    kernels::product<T>({t, terms, 1}, matrix.const_data_ptr<T>(), items, terms, matrix.size(1), add, out);
  }
  // out (K, C) += rows of t (M, K), turned, @ x (items, C).
  void add_turned(const Tensor &t, const T *x, T *out) const {
    kernels::product<T>({t.const_data_ptr<T>() + first * g.K, 1, g.K}, x, g.K, items, g.C, true, out);
  }
  kernels::Fused<T> plain(const T *x) const { return g.plain(x, first); }

  const Arguments &g;
  int64_t first, items;
};

// Room for numbers of a chunk, `count` times as many as its x has.
template <typename T>
struct Scratch {
  Scratch(const Arguments &g, int64_t count) : size(g.chunks.longest * g.C), room(g.empty({count * size})) {}

  T *operator[](int64_t i) { return room.data_ptr<T>() + i * size; }

  int64_t size;
  Tensor room;
};

// Gradients that several items add to. Those of parameters are kept for each part and added at the
// end; that of b is added to directly where no two threads can meet, otherwise from the dx of all items.
struct Gradients {
  Gradients(const Arguments &g_, bool parameters_)
      : g(g_), parameters(parameters_),
        direct(g.chunks.disjoint || at::get_num_threads() == 1 || at::in_parallel_region()),
        turned(g.weight.t().contiguous()),
        da(g.empty({g.M, g.K})), ds(g.empty({g.S, g.C})), dw(g.empty({g.M})),
        db(direct ? at::zeros({g.B, g.C}, g.options) : g.empty({g.B, g.C})),
        dx_of_all(g.empty({direct ? 0 : g.M, g.C})) {
    const int64_t n = parameters ? g.chunks.parts() : 0;
    dweights = at::zeros({n, g.K, g.C}, g.options);
    dscales = at::zeros({n, g.C - g.c1}, g.options);
  }

  // Where the dx of a chunk is made.
  template <typename T>
  T *dx(T *scratch, size_t k) {
    return direct ? scratch : dx_of_all.data_ptr<T>() + g.chunks.first_item(k) * g.C;
  }

  template <typename T>
  kernels::FusedGradients<T> plain(T *dx, int64_t part) {
    T *scale = parameters ? dscales.data_ptr<T>() + part * (g.C - g.c1) : nullptr;
    return {dx, ds.data_ptr<T>(), direct ? db.data_ptr<T>() : nullptr, dw.data_ptr<T>(), scale};
  }

  // What the dx of a chunk adds to the gradients of a and of the weight.
  template <typename T>
  void take(const Chunk<T> &chunk, const T *dx, int64_t part) {
    chunk.product(dx, turned, da.data_ptr<T>() + chunk.first * g.K);
    add_turned(chunk, g.a, dx, part);
  }

  template <typename T>
  void add_turned(const Chunk<T> &chunk, const Tensor &left, const T *right, int64_t part) {
    if (parameters) chunk.add_turned(left, right, dweights.data_ptr<T>() + part * g.K * g.C);
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
  Tensor turned, da, ds, dw, db, dx_of_all, dweights, dscales;
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
      Scratch<scalar_t> scratch(g, 1);
      g.chunks.each(part, [&](size_t k) {
        const Chunk<scalar_t> chunk(g, k);
        chunk.product(g.a, g.weight, scratch[0]);
        kernels::fused_forward(chunk.plain(scratch[0]), g.chunks.segments(k), old, to_reduced, to_item);
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
  DPSIM_FLOAT(g.a.scalar_type(), name, [&] {
    for_parts(g.chunks, [&](int64_t part) {
      Scratch<scalar_t> scratch(g, 2);
      g.chunks.each(part, [&](size_t k) {
        const Chunk<scalar_t> chunk(g, k);
        scalar_t *dx = d.dx(scratch[1], k);
        chunk.product(g.a, g.weight, scratch[0]);
        kernels::fused_backward(chunk.plain(scratch[0]), g.chunks.segments(k), go.plain<scalar_t>(),
                                gi.plain<scalar_t>(), d.plain(dx, part));
        d.take(chunk, dx, part);
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
  const Cotangent ddw(name, "ddw", ddw_, g.a, {g.M});
  const Tensor ddscale = is_given(ddscale_) ? rows(name, "ddscale", *ddscale_, g.a, {g.C - c1})
                                            : at::zeros({g.C - c1}, g.options);
  const Tensor dda = is_given(dda_) ? rows(name, "dda", *dda_, g.a, {g.M, g.K}) : Tensor();
  const Tensor ddweight = is_given(ddweight_) ? rows(name, "ddweight", *ddweight_, g.a, {g.K, g.C}) : Tensor();
  const Tensor ddweight_turned = ddweight.defined() ? ddweight.t().contiguous() : Tensor();
  const Cotangent go(name, "grad_reduced", grad_reduced, g.a, {g.S, c1});
  const Cotangent gi(name, "grad_item", grad_item, g.a, {g.M, g.C - c1});
  // Without grad_item nobody asks for its gradient, which would be large.
  const bool items = is_given(grad_item), first_needed = ddweight.defined() || (parameters && dda.defined());
  Tensor dgo = g.empty({g.S, c1}), dgi = g.empty({items ? g.M : 0, g.C - c1});
  Gradients d(g, parameters);
  DPSIM_FLOAT(g.a.scalar_type(), name, [&] {
    scalar_t *to_dgo = dgo.data_ptr<scalar_t>(), *to_dgi = items ? dgi.data_ptr<scalar_t>() : nullptr;
    for_parts(g.chunks, [&](int64_t part) {
      Scratch<scalar_t> scratch(g, 4);
      g.chunks.each(part, [&](size_t k) {
        const Chunk<scalar_t> chunk(g, k);
        scalar_t *ddx = scratch[1], *dx = d.dx(scratch[2], k), *first = first_needed ? scratch[3] : nullptr;
        chunk.product(g.a, g.weight, scratch[0]);
        if (dda.defined()) chunk.product(dda, g.weight, ddx);
        if (!dda.defined()) std::fill(ddx, ddx + chunk.items * g.C, scalar_t(0));
        if (ddweight.defined()) chunk.product(g.a, ddweight, ddx, true);
        const kernels::FusedCotangents<scalar_t> u{{ddx, g.C}, dds.plain<scalar_t>(), ddb.plain<scalar_t>(),
                                                   ddw.plain<scalar_t>(), {ddscale.const_data_ptr<scalar_t>(), 0}};
        kernels::fused_double_backward(chunk.plain(scratch[0]), g.chunks.segments(k), u, go.plain<scalar_t>(),
                                       gi.plain<scalar_t>(), to_dgo, to_dgi, first, d.plain(dx, part));
        d.take(chunk, dx, part);
        if (dda.defined()) d.add_turned(chunk, dda, first, part);
        if (ddweight.defined())
          chunk.product(first, ddweight_turned, d.da.data_ptr<scalar_t>() + chunk.first * g.K, true);
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
