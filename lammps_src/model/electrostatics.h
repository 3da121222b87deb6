// Electrostatics of ions and of the charge centroids displaced from them, as dpsim/physics/centroids.py has
// it. Internal: everything that includes this file includes ATen.
#pragma once

#include "system/ewald.h"
#include "system/surroundings.h"

#include <ATen/core/Tensor.h>

namespace dpsim {

struct Charges;

// For the N centres of this rank.
struct LongRange {
  at::Tensor atomic_energy;      // (N) eV
  at::Tensor forces;             // (N,3) eV/Å on ions and, if these were fixed to them, their centroids
  at::Tensor centroid_forces;    // (N,3) eV/Å on the centroids: their work on the dipoles is still to be added
  at::Tensor atom_virial;        // (N,9) eV without that work; undefined unless wanted
  at::Tensor virial;             // (9) eV likewise; the sum over ranks is that of the whole system
};

class Electrostatics {
 public:
  Electrostatics(const Charges &charges, at::Device device);

  // Collective. types (N), dipoles (N,3) Å.
  LongRange evaluate(const at::Tensor &types, const at::Tensor &dipoles, const Surroundings &around);

 private:
  at::Tensor ion_, centroid_;    // (n_types) e
  EwaldSum sum_;
};

}    // namespace dpsim
