// Electrostatics of smeared charges in a periodic cell: the reciprocal part of an Ewald sum, with the same
// waves as dpsim/physics/ewald.py, over the charges of all ranks. Internal: everything that includes this
// file includes ATen.
//
// Q charges of this rank; K_d + 1 integers along cell vector d, from -K_d/2 to K_d/2.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <array>
#include <cstdint>
#include <vector>

namespace dpsim {

using Matrix = std::array<double, 9>;    // row-major

// What follows from the energy of the charges of all ranks for those of this one.
struct EwaldShares {
  at::Tensor energy;      // (Q) eV: half of charge times potential
  at::Tensor forces;      // (Q,3) eV/Å, at fixed positions of the other charges
  at::Tensor virial;      // (Q,3,3) eV; undefined unless wanted
  Matrix total_virial;    // eV, of the charges of all ranks: -dE/dstrain where all move with the cell
};

class EwaldSum {
 public:
  // spacing Å, beta 1/Å; tensors are on `device`.
  EwaldSum(double spacing, double beta, at::Device device);

  // Collective.
  //   positions (Q,3) Å in any image, charges (Q) e
  //   cell      rows are vectors, Å; the same on all ranks
  // Throws std::runtime_error if there are more waves than memory is meant for.
  EwaldShares evaluate(const at::Tensor &positions, const at::Tensor &charges, const Matrix &cell, MPI_Comm comm,
                       bool want_virial);

 private:
  void choose_waves(const Matrix &cell);
  at::Tensor structure_factors(const at::Tensor &fractional, const at::Tensor &charges, MPI_Comm comm) const;
  Matrix total_virial(const at::Tensor &structure) const;
  EwaldShares shares(const at::Tensor &fractional, const at::Tensor &charges, const at::Tensor &structure,
                     bool want_virial) const;
  std::int64_t block_size() const;

  double spacing_, beta_;
  at::TensorOptions options_;
  Matrix cell_{};
  double prefactor_ = 0.0;               // C/(2 pi V), eV Å^2
  at::Tensor inverse_;                   // (3,3) 1/Å: fractional = positions @ inverse
  std::vector<at::Tensor> integers_;     // by cell vector; of the first only those from zero on
  at::Tensor kernel_;                    // (n1,n2,n3) exp(-pi^2 m^2/beta^2)/m^2, twice where -k is left out
  at::Tensor shear_;                     // (n1,n2,n3) -2 (1 + pi^2 m^2/beta^2)/m^2
};

}    // namespace dpsim
