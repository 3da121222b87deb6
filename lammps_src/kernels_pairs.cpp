#include "kernels.h"
#include "kernels_loops.h"

#include <tuple>
#include <vector>

namespace dpsim::kernels {
namespace {

// A matrix of any layout: element (r, c) is data[r * row + c * column].
template <typename T>
struct Matrix {
  T *data;
  int64_t row, column;
  T &operator()(int64_t r, int64_t c) const { return data[r * row + c * column]; }
};

// Up to one vector, zeros behind it.
template <typename T>
inline Vec<T> load(const T *from, int64_t n) {
  return n >= Vec<T>::size() ? Vec<T>::loadu(from) : Vec<T>::loadu(from, n);
}

template <typename T>
constexpr int64_t whole_vectors(int64_t n) {
  return (n + Vec<T>::size() - 1) / Vec<T>::size() * Vec<T>::size();
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

// Copies a matrix, whose rows or columns are contiguous, to rows of whole vectors with zeros behind.
template <typename T>
void pack(const Matrix<const T> &from, int64_t rows, int64_t cols, T *to) {
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

// R rows and V vectors of a product, kept in registers over the whole sum.
template <int R, int V, typename T, typename Store>
inline void tile(const Matrix<const T> &a, int64_t K, const T *b, int64_t stride, const Store &store) {
  Vec<T> sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = Vec<T>(0);
  for (int64_t k = 0; k < K; ++k) {
    Vec<T> right[V];
    for (int v = 0; v < V; ++v) right[v] = Vec<T>::loadu(b + k * stride + v * Vec<T>::size());
    for (int r = 0; r < R; ++r) {
      const Vec<T> left(a(r, k));
      for (int v = 0; v < V; ++v) sum[r][v] = at::vec::fmadd(left, right[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(r, v * Vec<T>::size(), sum[r][v]);
}

// C (M, N) = A (M, K) B (K, N); the numbers of a sum are added in ascending order of k.
// `scratch` has room for K rows of N numbers in whole vectors.
template <typename T>
void multiply(const Matrix<const T> &a, const Matrix<const T> &b, const Matrix<T> &c, int64_t M, int64_t K, int64_t N,
              T *scratch) {
  constexpr int64_t width = Vec<T>::size();
  const bool direct = b.column == 1 && N % width == 0;
  if (!direct) pack(b, K, N, scratch);
  const T *right = direct ? b.data : scratch;
  const int64_t stride = direct ? b.row : whole_vectors<T>(N);

  for (int64_t col = 0; col < N; col += 2 * width) {
    for (int64_t row = 0; row < M; row += 4) {
      const auto store = [&](int64_t r, int64_t v, const Vec<T> &sum) {
        const int64_t count = std::min(width, N - col - v);
        T *to = &c(row + r, col + v);
        if (c.column == 1) {
          count == width ? sum.store(to) : sum.store(to, static_cast<int>(count));
        } else {
          T numbers[Vec<T>::size()];
          sum.store(numbers);
          for (int64_t i = 0; i < count; ++i) to[i * c.column] = numbers[i];
        }
      };
      const auto rows = [&]<int R>() {
        const Matrix<const T> left{&a(row, 0), a.row, a.column};
        if (N - col > width) {
          tile<R, 2>(left, K, right + col, stride, store);
        } else {
          tile<R, 1>(left, K, right + col, stride, store);
        }
      };
      switch (M - row) {
        case 1: rows.template operator()<1>(); break;
        case 2: rows.template operator()<2>(); break;
        case 3: rows.template operator()<3>(); break;
        default: rows.template operator()<4>();
      }
    }
  }
}

// Calls f(first edge, number of edges, first pair, scratch) for every centre; centres shared among
// threads. `size(n)` is the scratch that n edges need.
template <typename T, typename F, typename Size>
void for_centers(const PairPointers &at, int64_t K, const Size &size, const F &f) {
  int64_t most = 0;
  for (int64_t i = 0; i < at.N; ++i) most = std::max(most, at.edge[i + 1] - at.edge[i]);
  const int64_t work = at.pair[at.edge[at.N]] * K;
  const int64_t grain = std::max<int64_t>(1, kTaskSize * at.N / std::max<int64_t>(work, 1));
  at::parallel_for(0, at.N, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(size(most));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t edge = at.edge[i], n = at.edge[i + 1] - edge;
      if (n > 0) f(edge, n, at.pair[edge], scratch.data());
    }
  });
}

}  // namespace

template <typename T>
void pair_dot(const T *q, const T *k, const PairPointers &at, int64_t H, int64_t D, T *out) {
  const auto scratch = [&](int64_t n) { return D * whole_vectors<T>(n); };
  for_centers<T>(at, H * D, scratch, [&](int64_t edge, int64_t n, int64_t pair, T *buffer) {
    for (int64_t h = 0; h < H; ++h) {
      const int64_t first = edge * H * D + h * D;
      multiply<T>({q + first, H * D, 1}, {k + first, 1, H * D}, {out + pair * H + h, n * H, H}, n, D, n, buffer);
    }
  });
}

template <typename T>
void pair_mix(const T *p, const T *v, const PairPointers &at, int64_t H, int64_t D, bool transpose, T *out) {
  // Few columns would leave most of a vector unused: the transposed product has the edges in vectors.
  const bool narrow = H == 1 && 2 * D <= Vec<T>::size();
  const auto scratch = [&](int64_t n) { return n * whole_vectors<T>(narrow ? n : D); };
  for_centers<T>(at, H * D, scratch, [&](int64_t edge, int64_t n, int64_t pair, T *buffer) {
    for (int64_t h = 0; h < H; ++h) {
      const int64_t first = edge * H * D + h * D, along = transpose ? H : n * H, across = transpose ? n * H : H;
      const T *matrix = p + pair * H + h;
      if (narrow) {
        multiply<T>({v + first, 1, H * D}, {matrix, across, along}, {out + first, 1, H * D}, D, n, n, buffer);
      } else {
        multiply<T>({matrix, along, across}, {v + first, H * D, 1}, {out + first, H * D, 1}, n, n, D, buffer);
      }
    }
  });
}

#define DPSIM_INSTANTIATE(T)                                                                      \
  template void pair_dot(const T *, const T *, const PairPointers &, int64_t, int64_t, T *);      \
  template void pair_mix(const T *, const T *, const PairPointers &, int64_t, int64_t, bool, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
