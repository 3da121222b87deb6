#include "kernels/kernels.h"
#include "kernels/matrix.h"

#include <vector>

namespace dpsim::kernels {
namespace {

// The matrix of one segment at a time, L + K rows of C numbers, which is never kept for all.
template <typename T>
class Matrices {
 public:
  explicit Matrices(const Convolution<T> &f_)
      : f(f_), rows(f.L + f.K), row(whole_vectors<T>(f.C)), room(rows * row), turned_row(whole_vectors<T>(rows)),
        turned(f.C * turned_row) {}

  // matrix = h^T g, added to what is there if `add`.
  void outer(int64_t t, const T *h, const T *g, bool add) {
    const int64_t m = f.ptr[t], n = f.ptr[t + 1] - m;
    product<T>({h + m * rows, 1, rows}, rows, n, g + m * f.C, f.C, f.C, room.data(), row, add);
  }

  // matrix = the cotangents of the moments, then those of the sums times the weights.
  void cotangent(int64_t t, const T *t_moments, const T *t_sums) {
    for (int64_t l = 0; l < f.L; ++l) std::copy_n(t_moments + (t * f.L + l) * f.C, f.C, at(l));
    for (int64_t k = 0; k < f.K; ++k) {
      columns<T>(0, f.C, [&](int64_t c, int64_t n) {
        (Vec<T>::loadu(f.weight + k * f.C + c, n) * Vec<T>::loadu(t_sums + t * f.C + c, n)).store(at(f.L + k) + c, n);
      });
    }
  }

  // dh = g matrix^T and dg = h matrix.
  void to_items(int64_t t, const T *h, const T *g, T *dh, T *dg) {
    const int64_t m = f.ptr[t], n = f.ptr[t + 1] - m;
    if (n == 0) return;
    pack<T>({room.data(), 1, row}, f.C, rows, turned.data());
    product<T>({g + m * f.C, f.C, 1}, n, f.C, turned.data(), turned_row, rows, dh + m * rows, rows, false);
    product<T>({h + m * rows, rows, 1}, n, rows, room.data(), row, f.C, dg + m * f.C, f.C, false);
  }

  void take_moments(int64_t t, T *moments) {
    for (int64_t l = 0; l < f.L; ++l) std::copy_n(at(l), f.C, moments + (t * f.L + l) * f.C);
  }

  // sums = sum over rows of weight times matrix.
  void take_sums(int64_t t, T *sums) {
    columns<T>(0, f.C, [&](int64_t c, int64_t n) {
      Vec<T> sum(0);
      for (int64_t k = 0; k < f.K; ++k)
        sum = at::vec::fmadd(Vec<T>::loadu(f.weight + k * f.C + c, n), Vec<T>::loadu(at(f.L + k) + c, n), sum);
      sum.store(sums + t * f.C + c, n);
    });
  }

  // dweight += matrix times the cotangent of the sums.
  void add_weight(int64_t t, const T *t_sums, T *dweight) {
    for (int64_t k = 0; k < f.K; ++k) {
      columns<T>(0, f.C, [&](int64_t c, int64_t n) {
        T *to = dweight + k * f.C + c;
        at::vec::fmadd(Vec<T>::loadu(t_sums + t * f.C + c, n), Vec<T>::loadu(at(f.L + k) + c, n), Vec<T>::loadu(to, n))
            .store(to, n);
      });
    }
  }

 private:
  T *at(int64_t r) { return room.data() + r * row; }

  const Convolution<T> &f;
  int64_t rows, row;
  std::vector<T> room;
  int64_t turned_row;
  std::vector<T> turned;
};

// Segments are shared among at most so many tasks, the same for any number of threads: what is
// summed over all of them is summed in each task first.
constexpr int64_t kTasks = 32;

// f(matrices, segment, dweight of the task); these are added in order, if `dweight` is not null.
template <typename T, typename F>
void for_matrices(const Convolution<T> &c, T *dweight, const F &f) {
  const int64_t tasks = std::clamp<int64_t>(c.S, 1, kTasks), size = c.K * c.C;
  std::vector<T> partial(dweight ? tasks * size : 0, T(0));
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    Matrices<T> matrices(c);
    for (int64_t i = begin; i < end; ++i)
      for (int64_t t = i * c.S / tasks; t < (i + 1) * c.S / tasks; ++t)
        f(matrices, t, dweight ? partial.data() + i * size : nullptr);
  });
  if (!dweight) return;
  std::fill(dweight, dweight + size, T(0));
  for (int64_t i = 0; i < tasks; ++i) add_row(dweight, partial.data() + i * size, size);
}

}  // namespace

template <typename T>
void convolution(const Convolution<T> &c, T *moments, T *sums) {
  for_matrices<T>(c, nullptr, [&](auto &matrices, int64_t t, T *) {
    matrices.outer(t, c.h, c.g, false);
    matrices.take_moments(t, moments);
    matrices.take_sums(t, sums);
  });
}

template <typename T>
void convolution_backward(const Convolution<T> &c, const T *t_moments, const T *t_sums, T *dh, T *dg, T *dweight) {
  for_matrices<T>(c, dweight, [&](auto &matrices, int64_t t, T *weight) {
    if (dh) {
      matrices.cotangent(t, t_moments, t_sums);
      matrices.to_items(t, c.h, c.g, dh, dg);
    }
    if (!weight) return;
    matrices.outer(t, c.h, c.g, false);
    matrices.add_weight(t, t_sums, weight);
  });
}

template <typename T>
void convolution_double_backward(const Convolution<T> &c, const T *uh, const T *ug, const T *t_moments,
                                 const T *t_sums, T *d_moments, T *d_sums, T *dh, T *dg, T *dweight) {
  for_matrices<T>(c, dweight, [&](auto &matrices, int64_t t, T *weight) {
    if (dh) {
      matrices.cotangent(t, t_moments, t_sums);
      matrices.to_items(t, uh, ug, dh, dg);
    }
    matrices.outer(t, uh, c.g, false);
    matrices.outer(t, c.h, ug, true);
    matrices.take_moments(t, d_moments);
    matrices.take_sums(t, d_sums);
    if (weight) matrices.add_weight(t, t_sums, weight);
  });
}

#define DPSIM_INSTANTIATE(T)                                                                                         \
  template void convolution(const Convolution<T> &, T *, T *);                                                       \
  template void convolution_backward(const Convolution<T> &, const T *, const T *, T *, T *, T *);                   \
  template void convolution_double_backward(const Convolution<T> &, const T *, const T *, const T *, const T *, T *, \
                                            T *, T *, T *, T *);
DPSIM_INSTANTIATE(float)
DPSIM_INSTANTIATE(double)

}  // namespace dpsim::kernels
