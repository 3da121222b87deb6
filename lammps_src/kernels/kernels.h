// CPU kernels of dpsim's operators on plain arrays; ops*.cpp check and allocate for them.
//
// All arrays are contiguous and row-major. M items lie in S segments: segment t holds the items
// ptr[t] .. ptr[t+1]-1, with ptr[0] = 0 and ptr[S] = M. T is float or double.
// Results do not depend on the number of threads: every output element is summed by one thread
// in the order of the items.
#pragma once

#include <cstdint>

namespace dpsim::kernels {

// ---- rows (kernels_rows.cpp); K numbers in a row ------------------------------------------------

// out (S, K): sum of the rows of x (M, K) in each segment.
template <typename T>
void segment_sum(const T *x, const int64_t *ptr, int64_t S, int64_t K, T *out);

// out (M, K): to each item the row of y (S, K) of its segment.
template <typename T>
void segment_expand(const T *y, const int64_t *ptr, int64_t S, int64_t K, T *out);

// out (S, K): largest number of each column of x (M, K) in each segment, 0 where there is none.
template <typename T>
void segment_max(const T *x, const int64_t *ptr, int64_t S, int64_t K, T *out);

// out (M, K): row index[m] of x (R, K).
template <typename T>
void gather_rows(const T *x, const int64_t *index, int64_t M, int64_t K, T *out);

// out (R, K): sum of the rows m of g (M, K) with index[m] equal to the row.
template <typename T>
void scatter_rows(const T *g, const int64_t *index, int64_t M, int64_t R, int64_t K, T *out);

// ---- sums of outer products over the items of a segment (outer.cpp) ----------------------------

// out (S, K, C) = sum over items of h (M, K) times g (M, C).
template <typename T>
void outer_sum(const T *h, const T *g, const int64_t *ptr, int64_t S, int64_t K, int64_t C, T *out);

// out (M, K): rows of t (S, K, C) of the item's segment, times g (M, C), summed over C.
template <typename T>
void outer_dot(const T *t, const T *g, const int64_t *ptr, int64_t S, int64_t K, int64_t C, T *out);

// out (M, C): rows of t (S, K, C) of the item's segment, times h (M, K), summed over K.
template <typename T>
void outer_mix(const T *t, const T *h, const int64_t *ptr, int64_t S, int64_t K, int64_t C, T *out);

// The same for h (M, 3), where the row of g (R, C) of item m is index[m] (kernels_neighbor.cpp).

// out (S, 3, C).
template <typename T>
void neighbor_sum(const T *h, const T *g, const int64_t *index, const int64_t *ptr, int64_t S, int64_t C, T *out);

// out (M, 3).
template <typename T>
void neighbor_dot(const T *t, const T *g, const int64_t *index, const int64_t *ptr, int64_t S, int64_t C, T *out);

// out (R, C), summed over the items with the same index.
template <typename T>
void neighbor_mix(const T *t, const T *h, const int64_t *index, const int64_t *ptr, int64_t S, int64_t R, int64_t C,
                  T *out);

// ---- outer sums with weighted rows (convolution.cpp) --------------------------------------------

// Of the sums over the items of a segment of h (M, L + K) times g (M, C), the first L rows are kept,
// and the other K are added with weights (K, C).
template <typename T>
struct Convolution {
  const T *h, *g, *weight;
  const int64_t *ptr;
  int64_t S, L, K, C;
};

// moments (S, L, C) and sums (S, C).
template <typename T>
void convolution(const Convolution<T> &c, T *moments, T *sums);

// Gradients of <t_moments, moments> + <t_sums, sums>. dh and dg may be null together, and dweight.
template <typename T>
void convolution_backward(const Convolution<T> &c, const T *t_moments, const T *t_sums, T *dh, T *dg, T *dweight);

// Gradients of <uh, dh> + <ug, dg> with respect to all of them; nulls as above.
template <typename T>
void convolution_double_backward(const Convolution<T> &c, const T *uh, const T *ug, const T *t_moments,
                                 const T *t_sums, T *d_moments, T *d_sums, T *dh, T *dg, T *dweight);

// ---- environment of an edge (environment.cpp) ---------------------------------------------------

enum class Switch : int64_t { polynomial = 0, exponential = 1 };

// The switch begins and ends at these distances; `protection` is added to distances before division.
struct Fade {
  Switch form;
  double start, end, protection;
};

// Edges of S centres: displacements d (M, 3); mean and scale (types, columns) by the type (S) of the
// centre. columns is 4, or 1 for the radial one alone.
template <typename T>
struct Environment {
  const T *d, *mean, *scale;
  const int64_t *types, *ptr;
  int64_t S, columns;
  Fade fade;
};

// Gradients with respect to what `environment` gives; any may be null.
template <typename T>
struct EnvironmentGradient {
  T *rows, *sw, *r;
};

// rows (M, columns): (w [1/(r+p), d/(r+p)^2] - mean) scale; sw (M): the switch w; r (M).
template <typename T>
void environment(const Environment<T> &env, T *rows, T *sw, T *r);

// dd (M, 3): gradient with respect to d.
template <typename T>
void environment_backward(const Environment<T> &env, const EnvironmentGradient<const T> &g, T *dd);

// Gradients of <u, dd> with respect to g, and to d where dd is not null.
template <typename T>
void environment_double_backward(const Environment<T> &env, const T *u, const EnvironmentGradient<const T> &g,
                                 const EnvironmentGradient<T> &dg, T *dd);

// ---- products between the items of a segment (pairs.cpp) ---------------------------------------

// Items are the E edges of N centres, edge (N+1); the pairs of edge j with all edges of its centre,
// in order, begin at pair[j], pair (E+1).
struct PairPointers {
  const int64_t *edge, *pair;
  int64_t N;
};

// out (pairs, H) = q (E, H, D) of the first edge times k (E, H, D) of the second, summed over D.
template <typename T>
void pair_dot(const T *q, const T *k, const PairPointers &at, int64_t H, int64_t D, T *out);

// out (E, H, D): sum over the pairs of each first edge of p (pairs, H) times v (E, H, D) of the
// second edge; with `transpose` the two edges change roles.
template <typename T>
void pair_mix(const T *p, const T *v, const PairPointers &at, int64_t H, int64_t D, bool transpose, T *out);

// ---- functions of one number from tables of quintics (tabulate.cpp) ----------------------------

// Intervals of a table: `below` of them in [start, lower), `inside` in [lower, upper), `above` in
// [upper, end), of one width each.
struct TableGrid {
  double start, lower, upper, end;
  int64_t below, inside, above;
};

// out (E, M): derivative of the given order, at x (E), of M functions. Row r of table
// (intervals, 6, M) holds their polynomials in the distance from the lower end of interval r,
// constants first. Outside the table the functions go on in straight lines.
template <typename T>
void tabulate(const T *x, const T *table, const TableGrid &grid, int64_t order, int64_t E, int64_t M, T *out);

// out (E): the same times g (E, M), summed over the functions.
template <typename T>
void tabulate_dot(const T *x, const T *table, const T *g, const TableGrid &grid, int64_t order, int64_t E, int64_t M,
                  T *out);

// Items x (M) and rows r (M, K), K <= kTableRows, of S segments, and the functions of a table (.., 6, C).
constexpr int64_t kTableRows = 4;
template <typename T>
struct TableItems {
  const T *x, *r, *table;
  const int64_t *ptr;
  int64_t S, K, C;
  TableGrid grid;
};

// out (S, K, C): sum over the items of r times the functions at x.
template <typename T>
void tabulate_sum(const TableItems<T> &items, T *out);

// Gradients dx (M) and dr (M, K) of <t, out>.
template <typename T>
void tabulate_sum_backward(const TableItems<T> &items, const T *t, T *dx, T *dr);

// Gradients of <ux, dx> + <ur, dr> with respect to t, x and r; ux and ur may be null.
template <typename T>
void tabulate_sum_double_backward(const TableItems<T> &items, const T *ux, const T *ur, const T *t, T *dt, T *dx,
                                  T *dr);

// ---- products of matrices that fit into the cache (product.cpp) ---------------------------------

// Numbers at data[r * row + c * column].
template <typename T>
struct Matrix {
  const T *data;
  int64_t row, column;
  const T &operator()(int64_t r, int64_t c) const { return data[r * row + c * column]; }
};

// out (rows, N) = a (rows, terms) @ b (terms, N), added to what is there if `add`. Rows of b and out
// are contiguous, `b_row` and `out_row` numbers apart. Terms are added in ascending order.
template <typename T>
void product(const Matrix<T> &a, int64_t rows, int64_t terms, const T *b, int64_t b_row, int64_t N, T *out,
             int64_t out_row, bool add);

// The same without gaps between rows.
template <typename T>
inline void product(const Matrix<T> &a, const T *b, int64_t rows, int64_t terms, int64_t N, bool add, T *out) {
  product(a, rows, terms, b, N, N, out, N, add);
}

// ---- sums of embeddings (embedding.cpp) ---------------------------------------------------------

enum class Activation : int64_t { silu = 0, silut = 1, tanh = 2 };

// A network G of one number x and a kind: residual layers of the given widths, of which the first
// activates x w + first[kind]. Its input is added to the output of a layer that is as wide, or
// twice as wide; x itself to that of the first one if `skip`.
template <typename T>
struct Embedding {
  const int64_t *widths;
  int64_t layers;
  const T *first;  // (kinds, widths[0])
  int64_t kinds;
  const T *weights;  // w (widths[0]), then for each further layer (in, out) and its bias (out)
  bool skip;
  Activation activation;
  T threshold;  // of silut
};

// Items of S segments: numbers x, rows r of K numbers, and kinds; kinds may be null if there is one.
template <typename T>
struct EmbeddedItems {
  const T *x, *r;
  const int64_t *kind, *ptr;
  int64_t S, K;
};

// Gradients with respect to x (M), r (M, K), and first and weights as they stand above. x and r are
// left out where null; first and weights where weights is null.
template <typename T>
struct EmbeddingGradient {
  T *x, *r, *first, *weights;
};

// out (S, K, C): sum over the items of r times G, which has C columns.
template <typename T>
void embedding_sum(const Embedding<T> &net, const EmbeddedItems<T> &items, T *out);

// Gradients of <t, out>.
template <typename T>
void embedding_sum_backward(const Embedding<T> &net, const EmbeddedItems<T> &items, const T *t,
                            const EmbeddingGradient<T> &d);

// Gradients of <ux, dx> + <ur, dr>, with dx and dr the above, with respect to t, x, r and the
// parameters. ux and ur may be null.
template <typename T>
void embedding_sum_double_backward(const Embedding<T> &net, const EmbeddedItems<T> &items, const T *t, const T *ux,
                                   const T *ur, T *dt, const EmbeddingGradient<T> &d);

// ---- gather + activation + weighted segment sum (fused.cpp) ------------------------------------

// pre[m] = x[m] + s[segment of m] + b[b_index[m]], C columns;
// reduced[t, :c1] = sum over m in t of w[m] phi(pre[m, :c1]);
// item[m] = base[m] + scale phi(pre[m, c1:]).
// Row 0 of x, and of arrays like it, is that of the item `first`: the functions below may be called
// for some segments at a time, with the rows of their items alone.
template <typename T>
struct Fused {
  const T *x, *s, *b, *w, *scale;  // (.., C), (S, C), (B, C), (M), (C - c1)
  const int64_t *ptr, *b_index;
  int64_t C, c1, first;
  Activation activation;
  T threshold;  // of silut
};

// Segments begin .. end-1.
struct Segments {
  int64_t begin, end;
};

// An input that may be absent: `data` then is one row of zeros, and `stride` is 0.
template <typename T>
struct Rows {
  const T *data;
  int64_t stride;
  const T *row(int64_t i) const { return data + i * stride; }
};

// Gradients; what is null is left out. dx (.., C) like x, ds (S, C) and dw (M) are written; db (B, C)
// and dscale (C - c1) are added to.
template <typename T>
struct FusedGradients {
  T *dx, *ds, *db, *dw, *dscale;
};

// Cotangents of these gradients; ddx like x.
template <typename T>
struct FusedCotangents {
  Rows<T> ddx, dds, ddb, ddw, ddscale;
};

// base may be null.
template <typename T>
void fused_forward(const Fused<T> &f, Segments which, const T *base, T *reduced, T *item);

// From go (S, c1) and gi (M, C - c1).
template <typename T>
void fused_backward(const Fused<T> &f, Segments which, Rows<T> go, Rows<T> gi, const FusedGradients<T> &d);

// Gradients of the products of cotangents and gradients, summed, with respect to go, gi and the
// inputs. dgi may be null when gi is absent; dx_first, if not null, receives the dx of fused_backward.
template <typename T>
void fused_double_backward(const Fused<T> &f, Segments which, const FusedCotangents<T> &u, Rows<T> go, Rows<T> gi,
                           T *dgo, T *dgi, T *dx_first, const FusedGradients<T> &d);

}  // namespace dpsim::kernels
