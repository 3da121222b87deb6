#include "kernels/kernels.h"
#include "kernels/activation.h"
#include "kernels/matrix.h"

#include <new>
#include <utility>
#include <vector>

namespace dpsim::kernels {
namespace {

// Items are taken in blocks. What belongs to a channel of a layer lies in one row of kBlock numbers,
// one for each item, so that widths of layers need not fit vectors. Unused places count as zeros.
template <typename T>
constexpr int64_t kBlock = 4 * Vec<T>::size();

// Calls f(v) for the vectors of a row of a block.
template <typename T, typename F>
inline void vectors(const F &f) {
  for (int64_t v = 0; v < kBlock<T>; v += Vec<T>::size()) f(v);
}

// A vector that begins with a cache line.
template <typename T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t line{64};
  T *allocate(size_t n) { return static_cast<T *>(::operator new(n * sizeof(T), line)); }
  void deallocate(T *p, size_t) { ::operator delete(p, line); }
  bool operator==(const LineAllocator &) const { return true; }
};
template <typename T>
using LineVector = std::vector<T, LineAllocator<T>>;

template <typename T>
struct Layer {
  int64_t in, out;
  int64_t copies;      // how often its input is added to its output, side by side
  const T *w, *b;      // (in, out) and (out); of the first layer (out) and none
  int64_t dw, db;      // where their gradients begin among those of all, in rows of whole vectors
  T *value, *d1, *d2;  // activated, and derivatives of the activation: rows of a block for each channel
  T *tangent, *before;  // derivative with respect to x of the output, and of what is activated
};

// One thread's way through a range of segments.
template <typename T, typename Phi>
class Worker {
 public:
  Worker(const Embedding<T> &net_, const EmbeddedItems<T> &items_, const Phi &phi_, int order)
      : net(net_), items(items_), phi(phi_), layers(net_.layers) {
    int64_t widest = 0, in = 0, gradient = 0;
    const T *w = net.weights;
    for (int64_t l = 0; l < net.layers; ++l) {
      const int64_t out = net.widths[l], row = whole_vectors<T>(out);
      auto &layer = layers[l];
      layer = {.in = in, .out = out, .copies = l > 0 && (out == in || out == 2 * in) ? out / in : 0, .w = w};
      if (l > 0) layer.b = w + in * out;
      w += l > 0 ? (in + 1) * out : out;
      layer.dw = gradient;
      layer.db = gradient + std::max<int64_t>(in, 1) * row;
      gradient = layer.db + row;
      widest = std::max(widest, out);
      in = out;
    }
    gradients = gradient;
    last = whole_vectors<T>(in);
    const int64_t row = whole_vectors<T>(widest), each = order == 0 ? 1 : (order == 1 ? 2 : 5);
    int64_t room = 0;
    for (const auto &layer : layers) room += each * layer.out * kBlock<T>;
    room += 4 * widest * kBlock<T> + 3 * kBlock<T> * row + 2 * items.K * last + (3 + 2 * items.K) * kBlock<T>;
    memory.resize(room);
    T *next = memory.data();
    const auto take = [&](int64_t n) { return std::exchange(next, next + n); };
    for (auto &layer : layers) {
      const int64_t n = layer.out * kBlock<T>;
      layer.value = take(n);
      if (order > 0) layer.d1 = take(n);
      if (order > 1) layer.d2 = take(n), layer.tangent = take(n), layer.before = take(n);
    }
    for (T **one : {&adjoint, &below, &slope, &slope_below}) *one = take(widest * kBlock<T>);
    for (T **one : {&rows, &more_rows, &turned}) *one = take(kBlock<T> * row);
    for (T **one : {&sum, &open}) *one = take(items.K * last);
    for (T **one : {&x, &factor, &line}) *one = take(kBlock<T>);
    for (T **one : {&left, &right}) *one = take(items.K * kBlock<T>);
  }

  // out (S, K, C) of segments [first, end).
  void forward(int64_t first, int64_t end, T *out) {
    sums(first, end, out, [&](int64_t e, int64_t n) {
      values(e, n, 0);
      to_rows(layers.back().value, layers.back().out, rows);
    }, [&](int64_t e, int64_t a, int64_t b) { add_outer(items.r + (e + a) * items.K, a, b, rows); });
  }

  // See embedding_sum_backward; `dz` (M, C1) are gradients of what the first layer activates.
  void backward(int64_t first, int64_t end, const T *t, T *dx, T *dr, T *dz, T *gradient) {
    blocks(first, end, [&](int64_t e, int64_t n) {
      values(e, n, 1);
      auto &top = layers.back();
      if (dr) to_rows(top.value, top.out, rows);
      std::fill(more_rows, more_rows + kBlock<T> * last, T(0));
      parts(e, n, [&](int64_t s, int64_t a, int64_t b) {
        take_cotangent(t, s);
        mix(items.r + (e + a) * items.K, a, b, more_rows);
        if (dr) dot(rows, a, b, dr + (e + a) * items.K, nullptr);
      });
      to_columns(more_rows, top.out, adjoint);
      descend(e, n, dx, dz, gradient, false);
    });
  }

  // See embedding_sum_double_backward.
  void double_backward(int64_t first, int64_t end, const T *t, const T *ux, const T *ur, T *dt, T *dx, T *dr, T *dz,
                       T *gradient) {
    const int64_t K = items.K;
    auto &top = layers.back();
    const bool reverse = dx || dz || gradient;
    sums(first, end, dt, [&](int64_t e, int64_t n) {
      values(e, n, 2);
      tangents();
      for (int64_t i = 0; i < kBlock<T>; ++i) factor[i] = ux && i < n ? ux[e + i] : T(0);
      for (int64_t i = 0; i < n * K; ++i) {
        left[i] = ur ? ur[e * K + i] : T(0);
        right[i] = factor[i / K] * items.r[e * K + i];
      }
      if (reverse) {
        for (T *into : {adjoint, slope}) {
          std::fill(rows, rows + kBlock<T> * last, T(0));
          parts(e, n, [&](int64_t s, int64_t a, int64_t b) {
            take_cotangent(t, s);
            mix((into == adjoint ? left : right) + a * K, a, b, rows);
          });
          to_columns(rows, top.out, into);
        }
      }
      to_rows(top.value, top.out, rows);
      to_rows(top.tangent, top.out, more_rows);
      if (dr) {
        parts(e, n, [&](int64_t s, int64_t a, int64_t b) {
          take_cotangent(t, s);
          dot(more_rows, a, b, dr + (e + a) * K, factor);
        });
      }
      if (reverse) descend(e, n, dx, dz, gradient, true);
    }, [&](int64_t, int64_t a, int64_t b) {
      add_outer(left + a * K, a, b, rows);
      add_outer(right + a * K, a, b, more_rows);
    });
  }

  int64_t gradients;  // numbers of a gradient with respect to the weights, in rows of whole vectors

  // Adds such a gradient to one without gaps, and to that of what enters the first layer for one kind.
  void collect(const T *gradient, T *dweights, T *dfirst) const {
    for (const auto &layer : layers) {
      const int64_t row = whole_vectors<T>(layer.out);
      for (int64_t i = 0; i < std::max<int64_t>(layer.in, 1); ++i, dweights += layer.out)
        add_row(dweights, gradient + layer.dw + i * row, layer.out);
      add_row(layer.in == 0 ? dfirst : dweights, gradient + layer.db, layer.out);
      dweights += layer.in == 0 ? 0 : layer.out;
    }
  }

 private:
  // f(first item, number) for the blocks of a range of segments.
  template <typename F>
  void blocks(int64_t first, int64_t end, const F &f) {
    segment = first;
    for (int64_t e = items.ptr[first]; e < items.ptr[end]; e += kBlock<T>) f(e, std::min(kBlock<T>, items.ptr[end] - e));
  }

  // f(segment, first place, end) for the segments that have items in a block.
  template <typename F>
  void parts(int64_t e, int64_t n, const F &f) {
    while (items.ptr[segment + 1] <= e) ++segment;
    for (int64_t s = segment; items.ptr[s] < e + n; ++s) {
      const int64_t a = std::max<int64_t>(items.ptr[s] - e, 0), b = std::min(items.ptr[s + 1] - e, n);
      if (a < b) f(s, a, b);
    }
  }

  // Sums over the items of each segment: `block` prepares a block, `add` adds places [a, b) to `sum`.
  template <typename Block, typename Add>
  void sums(int64_t first, int64_t end, T *out, const Block &block, const Add &add) {
    const int64_t K = items.K, C = layers.back().out;
    std::fill(out + first * K * C, out + end * K * C, T(0));
    blocks(first, end, [&](int64_t e, int64_t n) {
      block(e, n);
      parts(e, n, [&](int64_t s, int64_t a, int64_t b) {
        if (e + a == items.ptr[s]) std::fill(sum, sum + K * last, T(0));
        add(e, a, b);
        if (e + b < items.ptr[s + 1]) return;
        for (int64_t k = 0; k < K; ++k) std::copy_n(sum + k * last, C, out + (s * K + k) * C);
      });
    });
  }

  // sum += r^T (rows of places [a, b)); r begins with that of place a.
  void add_outer(const T *r, int64_t a, int64_t b, const T *from) {
    product<T>({r, 1, items.K}, items.K, b - a, from + a * last, last, last, sum, last, true);
  }

  // Rows of places [a, b) of `to` += r times the cotangent at hand.
  void mix(const T *r, int64_t a, int64_t b, T *to) {
    product<T>({r, items.K, 1}, b - a, items.K, open, last, last, to + a * last, last, false);
  }

  // out (b - a, K) = products of rows with those of the cotangent at hand, times `scale` of the place.
  void dot(const T *from, int64_t a, int64_t b, T *out, const T *scale) const {
    for (int64_t i = a; i < b; ++i) {
      for (int64_t k = 0; k < items.K; ++k, ++out) {
        Vec<T> found(0);
        for (int64_t c = 0; c < last; c += Vec<T>::size())
          found = at::vec::fmadd(Vec<T>::loadu(from + i * last + c), Vec<T>::loadu(open + k * last + c), found);
        *out = total(found) * (scale ? scale[i] : T(1));
      }
    }
  }

  void take_cotangent(const T *t, int64_t s) {
    const int64_t C = layers.back().out;
    for (int64_t k = 0; k < items.K; ++k) {
      std::copy_n(t + (s * items.K + k) * C, C, open + k * last);
      std::fill(open + k * last + C, open + (k + 1) * last, T(0));
    }
  }

  void to_rows(const T *from, int64_t channels, T *to) const {
    pack<T>({from, 1, kBlock<T>}, kBlock<T>, channels, to);
  }
  void to_columns(const T *from, int64_t channels, T *to) const {
    pack<T>({from, 1, whole_vectors<T>(channels)}, channels, kBlock<T>, to);
  }

  // to (out) = W^T from (in), or W from (out) to (in) where `back`.
  void map(const Layer<T> &layer, const T *from, T *to, bool back, bool add) const {
    const Matrix<T> w{layer.w, back ? layer.out : 1, back ? 1 : layer.out};
    product<T>(w, back ? layer.in : layer.out, back ? layer.out : layer.in, from, kBlock<T>, kBlock<T>, to, kBlock<T>,
               add);
  }

  // All layers' outputs for n items from e on, and so many derivatives of their activations.
  void values(int64_t e, int64_t n, int order) {
    for (int64_t i = 0; i < kBlock<T>; ++i) x[i] = i < n ? items.x[e + i] : T(0);
    for (auto &layer : layers) {
      const T *from = &layer == layers.data() ? nullptr : (&layer - 1)->value;
      if (from) {
        for (int64_t c = 0; c < layer.out; ++c)
          std::fill(layer.value + c * kBlock<T>, layer.value + (c + 1) * kBlock<T>, layer.b[c]);
        map(layer, from, layer.value, false, true);
      } else {
        first_layer(layer, e, n);
      }
      activate(layer, from, order);
    }
  }

  // What the first layer activates.
  void first_layer(const Layer<T> &layer, int64_t e, int64_t n) {
    if (net.kinds == 1) {
      for (int64_t c = 0; c < layer.out; ++c)
        std::fill(layer.value + c * kBlock<T>, layer.value + (c + 1) * kBlock<T>, net.first[c]);
    } else {
      const int64_t row = whole_vectors<T>(layer.out);
      for (int64_t i = 0; i < n; ++i) std::copy_n(net.first + items.kind[e + i] * layer.out, layer.out, rows + i * row);
      std::fill(rows + n * row, rows + kBlock<T> * row, T(0));
      to_columns(rows, layer.out, layer.value);
    }
    for (int64_t c = 0; c < layer.out; ++c) {
      vectors<T>([&](int64_t v) {
        T *to = layer.value + c * kBlock<T> + v;
        at::vec::fmadd(Vec<T>(layer.w[c]), Vec<T>::loadu(x + v), Vec<T>::loadu(to)).store(to);
      });
    }
  }

  // The arguments of a layer's activation, for functions that have several forms.
  struct Arguments {
    const T *from;
    int64_t size;
    template <typename F>
    void each(const F &f) const {
      for (int64_t i = 0; i < size; i += Vec<T>::size()) f(Vec<T>::loadu(from + i));
    }
  };

  // Activation in place, then the input added.
  void activate(const Layer<T> &layer, const T *from, int order) {
    const int64_t size = layer.out * kBlock<T>, step = Vec<T>::size();
    phi.for_row(Arguments{layer.value, size}, [&](const auto &f) {
      if (order == 0) {
        for (int64_t i = 0; i < size; i += step) f(Vec<T>::loadu(layer.value + i)).store(layer.value + i);
      } else if (order == 1) {
        for (int64_t i = 0; i < size; i += step) {
          Vec<T> d1;
          f(Vec<T>::loadu(layer.value + i), d1).store(layer.value + i);
          d1.store(layer.d1 + i);
        }
      } else {
        for (int64_t i = 0; i < size; i += step) {
          Vec<T> d1, d2;
          f(Vec<T>::loadu(layer.value + i), d1, d2).store(layer.value + i);
          d1.store(layer.d1 + i);
          d2.store(layer.d2 + i);
        }
      }
    });
    for (int64_t k = 0; k < layer.copies; ++k)
      add_row(layer.value + k * layer.in * kBlock<T>, from, layer.in * kBlock<T>);
    if (!from && net.skip)
      for (int64_t c = 0; c < layer.out; ++c) add_row(layer.value + c * kBlock<T>, x, kBlock<T>);
  }

  // Derivatives of all layers' outputs with respect to x.
  void tangents() {
    for (auto &layer : layers) {
      const bool is_first = &layer == layers.data();
      if (is_first) {
        for (int64_t c = 0; c < layer.out; ++c)
          std::fill(layer.before + c * kBlock<T>, layer.before + (c + 1) * kBlock<T>, layer.w[c]);
      } else {
        map(layer, (&layer - 1)->tangent, layer.before, false, false);
      }
      const Vec<T> more(is_first && net.skip ? T(1) : T(0));
      for (int64_t i = 0; i < layer.out * kBlock<T>; i += Vec<T>::size())
        at::vec::fmadd(Vec<T>::loadu(layer.d1 + i), Vec<T>::loadu(layer.before + i), more).store(layer.tangent + i);
      for (int64_t k = 0; k < layer.copies; ++k)
        add_row(layer.tangent + k * layer.in * kBlock<T>, (&layer - 1)->tangent, layer.in * kBlock<T>);
    }
  }

  // Adjoints from the last layer's output down to x: `adjoint` of the values and, in a second
  // derivative, `slope` of the tangents.
  void descend(int64_t e, int64_t n, T *dx, T *dz, T *gradient, bool second) {
    for (int64_t l = net.layers; l-- > 0;) {
      auto &layer = layers[l];
      const int64_t size = layer.out * kBlock<T>;
      if (dx && l == 0) skipped(layer);
      if (l > 0) copied(layer, adjoint, below);
      if (l > 0 && second) copied(layer, slope, slope_below);
      for (int64_t i = 0; i < size; i += Vec<T>::size()) {
        const auto d1 = Vec<T>::loadu(layer.d1 + i);
        auto z = Vec<T>::loadu(adjoint + i) * d1;
        if (second) {
          const auto s = Vec<T>::loadu(slope + i);
          z = at::vec::fmadd(s * Vec<T>::loadu(layer.d2 + i), Vec<T>::loadu(layer.before + i), z);
          (s * d1).store(slope + i);
        }
        z.store(adjoint + i);
      }
      if (gradient || (dz && l == 0)) weigh(layer, l, e, n, dz, gradient, second);
      if (l == 0) break;
      map(layer, adjoint, below, true, true);
      std::swap(adjoint, below);
      if (!second) continue;
      map(layer, slope, slope_below, true, true);
      std::swap(slope, slope_below);
    }
    if (!dx) return;
    product<T>({layers[0].w, 0, 1}, 1, layers[0].out, adjoint, kBlock<T>, kBlock<T>, line, kBlock<T>, true);
    std::copy_n(line, n, dx + e);
  }

  // line = what reaches x beside the first layer.
  void skipped(const Layer<T> &layer) {
    std::fill(line, line + kBlock<T>, T(0));
    if (!net.skip) return;
    for (int64_t c = 0; c < layer.out; ++c) add_row(line, adjoint + c * kBlock<T>, kBlock<T>);
  }

  // to (in) = what reaches the input beside the layer.
  void copied(const Layer<T> &layer, const T *from, T *to) const {
    const int64_t n = layer.in * kBlock<T>;
    if (layer.copies == 0) std::fill(to, to + n, T(0));
    for (int64_t k = 0; k < layer.copies; ++k) {
      if (k == 0) {
        std::copy_n(from, n, to);
      } else {
        add_row(to, from + k * n, n);
      }
    }
  }

  // Gradients with respect to a layer's weights from `adjoint`, and `slope` in a second derivative.
  void weigh(const Layer<T> &layer, int64_t l, int64_t e, int64_t n, T *dz, T *gradient, bool second) {
    const int64_t row = whole_vectors<T>(layer.out);
    to_rows(adjoint, layer.out, turned);
    if (l == 0 && dz)
      for (int64_t i = 0; i < n; ++i) std::copy_n(turned + i * row, layer.out, dz + (e + i) * layer.out);
    if (!gradient) return;
    const T *values = l == 0 ? x : layers[l - 1].value, *slopes = l == 0 ? nullptr : layers[l - 1].tangent;
    outer(values, std::max<int64_t>(layer.in, 1), row, gradient + layer.dw);
    ones(row, gradient + layer.db);
    if (!second) return;
    to_rows(slope, layer.out, turned);
    if (l == 0) {
      ones(row, gradient + layer.dw);
    } else {
      outer(slopes, layer.in, row, gradient + layer.dw);
    }
  }

  // to (in, row) += from (in, block) times the rows `turned`.
  void outer(const T *from, int64_t in, int64_t row, T *to) const {
    product<T>({from, kBlock<T>, 1}, in, kBlock<T>, turned, row, row, to, row, true);
  }
  void ones(int64_t row, T *to) const {
    for (int64_t i = 0; i < kBlock<T>; ++i) add_row(to, turned + i * row, row);
  }

  const Embedding<T> &net;
  const EmbeddedItems<T> &items;
  const Phi &phi;
  std::vector<Layer<T>> layers;
  LineVector<T> memory;
  int64_t last, segment = 0;
  T *adjoint, *below, *slope, *slope_below, *rows, *more_rows, *turned, *sum, *open, *x, *factor, *line,
      *left, *right;
};

// Segments are shared among at most kChunks tasks of about equally many items, the same for any
// number of threads: what is summed over all items is summed in each task first.
constexpr int64_t kChunks = 64, kChunk = 512;

template <typename T>
std::vector<int64_t> chunks(const EmbeddedItems<T> &items) {
  const int64_t M = items.ptr[items.S], count = std::clamp<int64_t>(M / kChunk, 1, kChunks);
  std::vector<int64_t> bounds(count + 1, items.S);
  bounds[0] = 0;
  for (int64_t c = 1; c < count; ++c)
    bounds[c] = std::lower_bound(items.ptr, items.ptr + items.S, c * M / count) - items.ptr;
  return bounds;
}

// f(worker, chunk, first segment, end) for all chunks.
template <typename T, typename F>
void for_chunks(const Embedding<T> &net, const EmbeddedItems<T> &items, int order, const F &f) {
  const auto run = [&](const auto &phi) {
    const auto bounds = chunks(items);
    at::parallel_for(0, static_cast<int64_t>(bounds.size()) - 1, 1, [&](int64_t begin, int64_t end) {
      Worker<T, std::decay_t<decltype(phi)>> worker(net, items, phi, order);
      for (int64_t c = begin; c < end; ++c) f(worker, c, bounds[c], bounds[c + 1]);
    });
  };
  switch (net.activation) {
    case Activation::silu: run(Silu<T>(net.threshold)); break;
    case Activation::silut: run(Silut<T>(net.threshold)); break;
    case Activation::tanh: run(Tanh<T>(net.threshold)); break;
  }
}

// Runs f with a gradient of the weights for each chunk, and adds them in order.
template <typename T, typename F>
void with_gradients(const Embedding<T> &net, const EmbeddedItems<T> &items, int order, const EmbeddingGradient<T> &d,
                    const F &f) {
  const bool weighs = d.weights != nullptr;
  const int64_t M = items.ptr[items.S], width = net.widths[0];
  std::vector<LineVector<T>> each(chunks(items).size() - 1);
  LineVector<T> dz(weighs && net.kinds > 1 ? M * width : 0);
  for_chunks(net, items, order, [&](auto &worker, int64_t c, int64_t first, int64_t end) {
    if (weighs) each[c].assign(worker.gradients, T(0));
    f(worker, first, end, dz.empty() ? nullptr : dz.data(), weighs ? each[c].data() : nullptr);
  });
  if (!weighs) return;
  int64_t size = width;
  for (int64_t l = 1; l < net.layers; ++l) size += (net.widths[l - 1] + 1) * net.widths[l];
  std::fill(d.weights, d.weights + size, T(0));
  std::fill(d.first, d.first + net.kinds * width, T(0));
  const Silu<T> any(T(0));
  const Worker<T, Silu<T>> layout(net, items, any, 0);
  std::vector<T> unused(width);
  for (const auto &one : each) layout.collect(one.data(), d.weights, net.kinds == 1 ? d.first : unused.data());
  if (net.kinds > 1) scatter_into(dz.data(), items.kind, M, net.kinds, width, d.first);
}

}  // namespace

template <typename T>
void embedding_sum(const Embedding<T> &net, const EmbeddedItems<T> &items, T *out) {
  for_chunks(net, items, 0,
             [&](auto &worker, int64_t, int64_t first, int64_t end) { worker.forward(first, end, out); });
}

template <typename T>
void embedding_sum_backward(const Embedding<T> &net, const EmbeddedItems<T> &items, const T *t,
                            const EmbeddingGradient<T> &d) {
  with_gradients(net, items, 1, d, [&](auto &worker, int64_t first, int64_t end, T *dz, T *gradient) {
    worker.backward(first, end, t, d.x, d.r, dz, gradient);
  });
}

template <typename T>
void embedding_sum_double_backward(const Embedding<T> &net, const EmbeddedItems<T> &items, const T *t, const T *ux,
                                   const T *ur, T *dt, const EmbeddingGradient<T> &d) {
  with_gradients(net, items, 2, d, [&](auto &worker, int64_t first, int64_t end, T *dz, T *gradient) {
    worker.double_backward(first, end, t, ux, ur, dt, d.x, d.r, dz, gradient);
  });
}

#define DPSIM_INSTANTIATE(T)                                                                                          \
  template void embedding_sum(const Embedding<T> &, const EmbeddedItems<T> &, T *);                                   \
  template void embedding_sum_backward(const Embedding<T> &, const EmbeddedItems<T> &, const T *,                     \
                                       const EmbeddingGradient<T> &);                                                 \
  template void embedding_sum_double_backward(const Embedding<T> &, const EmbeddedItems<T> &, const T *, const T *,   \
                                              const T *, T *, const EmbeddingGradient<T> &);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
