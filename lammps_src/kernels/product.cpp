#include "kernels/matrix.h"

#include <tuple>
#include <utility>

namespace dpsim::kernels {
namespace {

// Vectors of columns, and rows for so many of them, whose sums stay in registers: of 32 there are
// where a vector has 512 bits, of 16 elsewhere.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kVectors = 6;
constexpr int rows_for(int vectors) { return vectors >= 5 ? 4 : vectors >= 3 ? 6 : 8; }
#else
constexpr int kVectors = 2;
constexpr int rows_for(int) { return 6; }
#endif

// Up to one vector, zeros behind it.
template <typename T>
inline Vec<T> load(const T *from, int64_t n) {
  return n >= Vec<T>::size() ? Vec<T>::loadu(from) : Vec<T>::loadu(from, n);
}

// Terms of a sum before the next tile is begun, so that their rows of b stay in the first cache.
constexpr int64_t kTerms = 128;

template <typename T>
struct Operands {
  Matrix<T> a;
  int64_t K;
  const T *b;
  int64_t b_row;
  T *c;
  int64_t c_row;
  int64_t rest;  // columns where they are less than a vector
  bool add;
};

// R rows and V whole vectors, or a single one of `rest` numbers.
template <int R, int V, bool Rest, typename T>
void tile(const Operands<T> &o) {
  constexpr int width = Vec<T>::size();
  static_assert(V == 1 || !Rest, "more would not fit into registers with what the masks need");
  const int count = Rest ? static_cast<int>(o.rest) : width;
  Vec<T> sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = o.add ? Vec<T>::loadu(o.c + r * o.c_row + v * width, count) : Vec<T>(0);
  const T *b = o.b, *a = o.a.data;
  for (int64_t k = 0; k < o.K; ++k, b += o.b_row, a += o.a.column) {
    Vec<T> right[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) right[v] = Vec<T>::loadu(b + v * width, count);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T> left(a[r * o.a.row]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = at::vec::fmadd(left, right[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v].store(o.c + r * o.c_row + v * width, count);
}

// Rows of a come from memory in pieces too short for the processor to see what comes next.
template <typename T>
void fetch(const Matrix<T> &a, int64_t first, int64_t end, int64_t K) {
  for (int64_t r = first; r < end; ++r)
    for (int64_t k = 0; k < K; k += 64 / sizeof(T)) __builtin_prefetch(&a(r, k));
}

// f with a constant equal to n, which lies in 1..Most.
template <int Most, typename F>
void with_constant(int64_t n, const F &f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    static_cast<void>(((n == I + 1 && (f.template operator()<I + 1>(), true)) || ...));
  }(std::make_integer_sequence<int, Most>());
}

// All rows of so many vectors of columns, or of a last part of a vector.
template <int V, bool Rest, typename T>
void panel(const Operands<T> &o, int64_t rows, bool comes_from_memory) {
  constexpr int most = rows_for(V);
  const int64_t tiles = (rows + most - 1) / most;
  for (int64_t i = 0, row = 0; i < tiles; ++i) {
    const int64_t n = (rows - row) / (tiles - i);  // about equally many in all tiles
    if (comes_from_memory && o.a.column == 1) fetch(o.a, row + n, std::min(rows, row + n + most), o.K);
    Operands<T> part = o;
    part.a.data = &o.a(row, 0), part.c = o.c + row * o.c_row;
    with_constant<most>(n, [&]<int R>() { tile<R, V, Rest>(part); });
    row += n;
  }
}

// One column: out (rows) = a (rows, terms) b (terms), for rows of a and a b that are contiguous.
template <typename T>
void one_column(const Matrix<T> &a, int64_t rows, const T *b, int64_t terms, T *out, int64_t out_row, bool add) {
  for (int64_t r = 0; r < rows; ++r) {
    Vec<T> sum(0);
    columns<T>(0, terms, [&](int64_t c, int64_t n) {
      sum = at::vec::fmadd(Vec<T>::loadu(&a(r, c), n), Vec<T>::loadu(b + c, n), sum);
    });
    out[r * out_row] = (add ? out[r * out_row] : T(0)) + total(sum);
  }
}

// Writes the transpose of `rows` rows of up to one vector of numbers: `cols` whole vectors.
template <typename T>
inline void transpose_tile(const T *from, int64_t from_stride, int64_t rows, int64_t cols, T *to, int64_t to_stride) {
  constexpr int64_t width = Vec<T>::size();
  Vec<T> at_hand[width], next[width];
  for (int64_t r = 0; r < width; ++r)
    at_hand[r] = r < rows ? load(from + r * from_stride, cols) : Vec<T>(0);
  // Interleaving the halves of a list of vectors, once for every bit of a position, transposes it.
  for (int64_t half = 1; half < width; half *= 2) {
    for (int64_t r = 0; r < width / 2; ++r)
      std::tie(next[2 * r], next[2 * r + 1]) = at::vec::interleave2(at_hand[r], at_hand[r + width / 2]);
    std::copy_n(next, width, at_hand);
  }
  for (int64_t c = 0; c < cols; ++c) at_hand[c].store(to + c * to_stride);
}

}  // namespace

template <typename T>
void product(const Matrix<T> &a_, int64_t rows, int64_t terms, const T *b_, int64_t b_row, int64_t N, T *out,
             int64_t out_row, bool add) {
  constexpr int64_t width = Vec<T>::size();
  if (N == 1 && a_.column == 1 && b_row == 1) return one_column(a_, rows, b_, terms, out, out_row, add);
  const int64_t vectors = N / width, panels = (vectors + kVectors - 1) / kVectors;
  for (int64_t k = 0; k == 0 || k < terms; k += kTerms) {
    Operands<T> o{{&a_(0, k), a_.row, a_.column}, std::min(kTerms, terms - k), b_ + k * b_row, b_row, out, out_row,
                  N - vectors * width, add || k > 0};
    for (int64_t i = 0, done = 0; i < panels; ++i) {
      const int64_t n = (vectors - done) / (panels - i);  // about equally many in all panels
      with_constant<kVectors>(n, [&]<int V>() { panel<V, false>(o, rows, done == 0); });
      done += n;
      o.b += n * width, o.c += n * width;
    }
    if (o.rest > 0) panel<1, true>(o, rows, vectors == 0);
  }
}

template <typename T>
void pack(const Matrix<T> &from, int64_t rows, int64_t cols, T *to) {
  constexpr int64_t width = Vec<T>::size();
  const int64_t stride = whole_vectors<T>(cols);
  if (from.column == 1) {
    for (int64_t r = 0; r < rows; ++r)
      columns<T>(0, cols, [&](int64_t c, int64_t n) { load(&from(r, c), n).store(to + r * stride + c); });
  } else {
    for (int64_t c = 0; c < cols; c += width)
      for (int64_t r = 0; r < rows; r += width)
        transpose_tile(&from(r, c), from.column, std::min(width, cols - c), std::min(width, rows - r),
                       to + r * stride + c, stride);
  }
}

#define DPSIM_INSTANTIATE(T)                                                                                          \
  template void product(const Matrix<T> &, int64_t, int64_t, const T *, int64_t, int64_t, T *, int64_t, bool);        \
  template void pack(const Matrix<T> &, int64_t, int64_t, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
