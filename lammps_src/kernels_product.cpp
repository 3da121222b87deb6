#include "kernels.h"
#include "kernels_loops.h"

namespace dpsim::kernels {
namespace {

// Sums of a tile stay in registers: of 32 there are where a vector has 512 bits, of 16 elsewhere.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kVectors = 6;
#else
constexpr int kVectors = 2;
#endif
template <int V>
constexpr int kRows = V >= 5 ? 4 : V >= 3 ? 6 : kVectors > 2 ? 8 : 6;

// Terms of a sum before the next tile is begun, so that their rows of b stay in the first cache.
constexpr int64_t kTerms = 128;

// out (R, V vectors) = a (R, terms) @ b (terms, V vectors), added to what is there if `more`.
template <typename T, int R, int V>
inline void tile(const Matrix<T> &a, const T *b, int64_t ldb, int64_t terms, bool more, T *out, int64_t ldo) {
  constexpr int64_t width = Vec<T>::size();
  Vec<T> sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = more ? Vec<T>::loadu(out + r * ldo + v * width) : Vec<T>(0);
  for (int64_t k = 0; k < terms; ++k) {
    Vec<T> row[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) row[v] = Vec<T>::loadu(b + k * ldb + v * width);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T> factor(a.data[r * a.row + k * a.column]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = at::vec::fmadd(factor, row[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v].store(out + r * ldo + v * width);
}

// The same for all rows of a, V vectors of columns.
template <typename T, int V>
void panel(const Matrix<T> &a, int64_t rows, const T *b, int64_t ldb, int64_t terms, bool more, T *out,
           int64_t ldo) {
  constexpr int R = kRows<V>;
  int64_t r = 0;
  for (; r + R <= rows; r += R) tile<T, R, V>(a.from(r), b, ldb, terms, more, out + r * ldo, ldo);
  for (; r < rows; ++r) tile<T, 1, V>(a.from(r), b, ldb, terms, more, out + r * ldo, ldo);
}

// The last columns, fewer than a vector.
template <typename T>
void last_columns(const Matrix<T> &a, int64_t rows, const T *b, int64_t ldb, int64_t terms, bool more, T *out,
                  int64_t ldo, int64_t count) {
  for (int64_t r = 0; r < rows; ++r) {
    auto sum = more ? Vec<T>::loadu(out + r * ldo, count) : Vec<T>(0);
    for (int64_t k = 0; k < terms; ++k)
      sum = at::vec::fmadd(Vec<T>(a.data[r * a.row + k * a.column]), Vec<T>::loadu(b + k * ldb, count), sum);
    sum.store(out + r * ldo, count);
  }
}

// One column: out (rows) = a (rows, terms) @ b (terms), for rows of a that are contiguous.
template <typename T>
void one_column(const Matrix<T> &a, int64_t rows, const T *b, int64_t terms, bool more, T *out) {
  const auto add = [](const Vec<T> &x, const Vec<T> &y) { return x + y; };
  for (int64_t r = 0; r < rows; ++r) {
    Vec<T> sum(0);
    columns<T>(0, terms, [&](int64_t c, int64_t n) {
      sum = at::vec::fmadd(Vec<T>::loadu(a.data + r * a.row + c, n), Vec<T>::loadu(b + c, n), sum);
    });
    out[r] = (more ? out[r] : T(0)) + at::vec::vec_reduce_all<T>(add, sum);
  }
}

}  // namespace

template <typename T>
void product(const Matrix<T> &a_, const T *b, int64_t rows, int64_t terms, int64_t N, bool add, T *out) {
  constexpr int64_t width = Vec<T>::size();
  if (N == 1 && a_.column == 1) return one_column(a_, rows, b, terms, add, out);
  if (terms == 0 && !add) std::fill(out, out + rows * N, T(0));
  for (int64_t k = 0; k < terms; k += kTerms) {
    const bool more = add || k > 0;
    const int64_t n = std::min(kTerms, terms - k);
    const Matrix<T> a{a_.data + k * a_.column, a_.row, a_.column};
    const T *bk = b + k * N;
    int64_t c = 0;
    for (; c + kVectors * width <= N; c += kVectors * width)
      panel<T, kVectors>(a, rows, bk + c, N, n, more, out + c, N);
    if constexpr (kVectors > 4)
      for (; c + 4 * width <= N; c += 4 * width) panel<T, 4>(a, rows, bk + c, N, n, more, out + c, N);
    for (; c + 2 * width <= N; c += 2 * width) panel<T, 2>(a, rows, bk + c, N, n, more, out + c, N);
    for (; c + width <= N; c += width) panel<T, 1>(a, rows, bk + c, N, n, more, out + c, N);
    if (c < N) last_columns(a, rows, bk + c, N, n, more, out + c, N, N - c);
  }
}

#define DPSIM_INSTANTIATE(T) \
  template void product(const Matrix<T> &, const T *, int64_t, int64_t, int64_t, bool, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
