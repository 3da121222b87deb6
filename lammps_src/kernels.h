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

// ---- sums of outer products over the items of a segment (kernels_outer.cpp) ---------------------

// The row of g of item m is m, or index[m] if index is not null.

// out (S, 3, K) = sum over items of h (M, 3) times g.
template <typename T>
void outer_sum(const T *h, const T *g, const int64_t *index, const int64_t *ptr, int64_t S, int64_t K, T *out);

// out (M, 3): rows of t (S, 3, K) of the item's segment, times g, summed over K.
template <typename T>
void outer_dot(const T *t, const T *g, const int64_t *index, const int64_t *ptr, int64_t S, int64_t K, T *out);

// out (M, K): rows of t (S, 3, K) of the item's segment, times h (M, 3), summed over the three.
template <typename T>
void outer_mix(const T *t, const T *h, const int64_t *ptr, int64_t S, int64_t K, T *out);

// out (R, K): the same, summed over the items with the same index.
template <typename T>
void outer_mix_into(const T *t, const T *h, const int64_t *index, const int64_t *ptr, int64_t S, int64_t R, int64_t K,
                    T *out);

// ---- products between the items of a segment (kernels_pairs.cpp) --------------------------------

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

// ---- functions of one number from tables of quintics (kernels_tabulate.cpp) ---------------------

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

// ---- products of matrices that fit into the cache (kernels_product.cpp) --------------------------

// Numbers at data[r * row + c * column].
template <typename T>
struct Matrix {
  const T *data;
  int64_t row, column;
  Matrix from(int64_t r) const { return {data + r * row, row, column}; }
};

// out (rows, N) = a (rows, terms) @ b (terms, N), added to what is there if `add`.
template <typename T>
void product(const Matrix<T> &a, const T *b, int64_t rows, int64_t terms, int64_t N, bool add, T *out);

// ---- gather + activation + weighted segment sum (kernels_fused.cpp) -----------------------------

enum class Activation : int64_t { silu = 0, silut = 1, tanh = 2 };

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
