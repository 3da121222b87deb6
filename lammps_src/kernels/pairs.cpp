#include "kernels/kernels.h"
#include "kernels/matrix.h"

#include <vector>

namespace dpsim::kernels {
namespace {

// Where a result goes: number (r, c) to data[r * row + c * column].
template <typename T>
struct Target {
  T *data;
  int64_t row, column;
};

// c (M, N) = a (M, K) b (K, N); the numbers of a sum are added in ascending order of k.
// `scratch` has room for K + M rows of N numbers in whole vectors.
template <typename T>
void multiply(const Matrix<T> &a, const Matrix<T> &b, const Target<T> &c, int64_t M, int64_t K, int64_t N,
              T *scratch) {
  const int64_t stride = whole_vectors<T>(N);
  T *found = scratch + K * stride;
  if (b.column != 1) pack(b, K, N, scratch);
  const T *right = b.column == 1 ? b.data : scratch;
  const int64_t right_row = b.column == 1 ? b.row : stride;
  if (c.column == 1) return product<T>(a, M, K, right, right_row, N, c.data, c.row, false);
  product<T>(a, M, K, right, right_row, N, found, stride, false);
  for (int64_t i = 0; i < M; ++i)
    for (int64_t j = 0; j < N; ++j) c.data[i * c.row + j * c.column] = found[i * stride + j];
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
  const auto scratch = [&](int64_t n) { return (D + n) * whole_vectors<T>(n); };
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
  const auto scratch = [&](int64_t n) { return narrow ? (n + D) * whole_vectors<T>(n) : 2 * n * whole_vectors<T>(D); };
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
