#include "system/spin_system.h"

#include <cstddef>

namespace dpsim {

PairList SpinSystem::renew(const PairList &list, std::int64_t n)
{
  n_ = n;
  const int shift = static_cast<int>(n);
  centers_.assign(list.centers, list.centers + list.n_centers);
  counts_.assign(static_cast<std::size_t>(2 * n), 0);
  first_.assign(static_cast<std::size_t>(2 * n), nullptr);
  std::size_t total = 0;
  for (const int i : centers_) total += 2 * (2 * static_cast<std::size_t>(list.n_neighbors[i]) + 1);
  neighbors_.clear();
  neighbors_.reserve(total);    // so that pointers into it stay valid
  for (const int half : {0, shift})
    for (std::int64_t c = 0; c < list.n_centers; ++c) {
      const int i = list.centers[c], me = i + half;
      first_[me] = neighbors_.data() + neighbors_.size();
      neighbors_.push_back(half ? i : i + shift);
      for (const int other : {0, shift})
        for (int k = 0; k < list.n_neighbors[i]; ++k)
          neighbors_.push_back((list.neighbors[i][k] & list.mask) + other);
      counts_[me] = 2 * list.n_neighbors[i] + 1;
      if (half) centers_.push_back(me);
    }
  PairList doubled;
  doubled.n_centers = 2 * list.n_centers;
  doubled.centers = centers_.data();
  doubled.n_neighbors = counts_.data();
  doubled.neighbors = first_.data();
  return doubled;
}

const double *SpinSystem::place(const double *positions, const double *offsets)
{
  const auto size = static_cast<std::size_t>(3 * n_);
  offsets_.assign(offsets, offsets + size);
  positions_.resize(2 * size);
  for (std::size_t k = 0; k < size; ++k) {
    positions_[k] = positions[k];
    positions_[size + k] = positions[k] + offsets[k];
  }
  return positions_.data();
}

void SpinSystem::fold(const double *forces, double *virial, double *atom_virial)
{
  const auto size = static_cast<std::size_t>(3 * n_);
  virtual_forces_ = forces + size;
  forces_.resize(size);
  for (std::size_t k = 0; k < size; ++k) forces_[k] = forces[k] + virtual_forces_[k];
  for (std::size_t i = 0; i < static_cast<std::size_t>(n_); ++i)
    for (std::size_t k = 0; k < 3; ++k)
      for (std::size_t l = 0; l < 3; ++l) {
        const double own = -virtual_forces_[3 * i + k] * offsets_[3 * i + l];
        if (virial) virial[3 * k + l] += own;
        if (atom_virial)
          atom_virial[9 * i + 3 * k + l] += atom_virial[9 * (static_cast<std::size_t>(n_) + i) + 3 * k + l] + own;
      }
}

}    // namespace dpsim
