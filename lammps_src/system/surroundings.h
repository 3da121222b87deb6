// Where atoms are in their box, for models with electrostatics. No torch here.
#pragma once

#include <mpi.h>

#include <array>

namespace dpsim {

struct Surroundings {
  const double *positions = nullptr;    // (N,3) Å of the centres
  std::array<double, 9> cell{};         // rows are vectors, Å
  MPI_Comm comm = MPI_COMM_SELF;        // the ranks that share the box
  bool atom_virial = false;             // whether each atom's share of the virial is wanted
};

}    // namespace dpsim
