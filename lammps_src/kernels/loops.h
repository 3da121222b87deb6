// Loops that the kernels share: columns in vector registers, segments and destination rows in threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstdint>

namespace dpsim::kernels {

template <typename T>
using Vec = at::vec::Vectorized<T>;

// Numbers that are worth a task of their own.
constexpr int64_t kTaskSize = 16384;

// Calls f(column, count) for whole vectors of [begin, end), then for the rest of them. `count` is a
// constant in the first case, which turns loads and stores into plain vector instructions.
template <typename T, typename F>
inline void columns(int64_t begin, int64_t end, const F &f) {
  constexpr int64_t width = Vec<T>::size();
  int64_t c = begin;
  for (; c + width <= end; c += width) f(c, width);
  if (c < end) f(c, end - c);
}

template <typename T>
inline void add_row(T *to, const T *from, int64_t K) {
  columns<T>(0, K, [&](int64_t c, int64_t n) {
    (Vec<T>::loadu(to + c, n) + Vec<T>::loadu(from + c, n)).store(to + c, n);
  });
}

// f(t) for every segment, segments shared among threads; `work` is the total of numbers handled.
template <typename F>
inline void for_segments(int64_t S, int64_t work, const F &f) {
  const int64_t grain = std::max<int64_t>(1, kTaskSize * S / std::max<int64_t>(work, 1));
  at::parallel_for(0, S, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(t);
  });
}

inline bool one_thread() { return at::get_num_threads() == 1 || at::in_parallel_region(); }

// f(begin, end) for ranges of R destination rows. Each thread owns a range and walks through all items
// (M rows of K numbers), so the order of a sum is that of the items for any number of threads.
template <typename F>
inline void for_rows(int64_t R, int64_t M, int64_t K, const F &f) {
  at::parallel_for(0, R, std::max<int64_t>(1, kTaskSize * R / std::max<int64_t>(M * K, 1)), f);
}

// Sums rows g(m) into row index[m] of out (R, K).
template <typename T>
inline void scatter_into(const T *g, const int64_t *index, int64_t M, int64_t R, int64_t K, T *out) {
  for_rows(R, M, K, [&](int64_t begin, int64_t end) {
    std::fill(out + begin * K, out + end * K, T(0));
    for (int64_t m = 0; m < M; ++m)
      if (index[m] >= begin && index[m] < end) add_row(out + index[m] * K, g + m * K, K);
  });
}

}  // namespace dpsim::kernels
