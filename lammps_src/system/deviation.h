// How far the models of an ensemble are from each other. Pure: no LAMMPS, no torch.
//
// The deviation of a quantity is its standard deviation over the models; of vectors, the length of that of their
// components. A relative one is divided by the length of the mean plus a level.
#pragma once

#include <cstddef>
#include <vector>

namespace dpsim {

// Largest, least and mean of deviations; all 0 if there are none.
struct Spread {
  double most = 0.0, least = 0.0, mean = 0.0;
};

// Of n vectors (n,3) of each model; `level` < 0: absolute. Returns (n).
std::vector<double> vector_deviations(const std::vector<std::vector<double>> &models, std::size_t n, double level);

// Of one tensor (9) of each model, component by component; the mean is the quadratic one. The level likewise.
Spread tensor_deviation(const std::vector<std::vector<double>> &models, double level);

}    // namespace dpsim
