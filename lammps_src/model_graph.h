// From positions to the model's inputs and from its outputs to forces, every step; on the CPU by
// plain loops over LAMMPS's list, on a GPU by tensor operations over edges that stay there between
// reneighbourings, so that a step sends positions and brings back forces.
#pragma once

#include "neighborhood.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dpsim {

struct GraphTensors;
struct ModelOutput;

struct Want {
  bool virial = false, atom_energy = false, atom_virial = false;
};

// What a step gives to LAMMPS; "atom" includes ghosts. Valid until the next gather().
struct Response {
  double energy = 0.0;                     // eV, of this rank's atoms
  double virial[9] = {};                   // eV, row-major, of this rank's edges; if wanted
  const double *atomic_energy = nullptr;   // (N) eV, by feature row; if wanted
  const double *forces = nullptr;          // (n_atoms,3) eV/Å, partial: ghosts' go to their owners
  const double *atom_virial = nullptr;     // (n_atoms,3,3) eV, partial likewise; if wanted
  const double *virtual_forces = nullptr;  // (n_atoms,3) eV/Å of spin models, after SpinSystem::fold; partial
};

// How much there is to do at a step.
struct GraphSizes {
  std::int64_t rows = 0, edges = 0, pairs = 0;    // feature rows; of the outermost list; of all lists
};
GraphSizes sizes_of(const GraphTensors &tensors);

class ModelGraph {
 public:
  // device as torch writes it; "cpu" with `tensor_path` takes the GPU's path on the CPU (tests).
  static std::unique_ptr<ModelGraph> make(const NeighborSpec &spec, const std::string &device,
                                          bool tensor_path = false);
  virtual ~ModelGraph() = default;

  // At each new neighbour list. `list` must stay valid until the next call; the vectors are taken.
  //   row (n_atoms), row_types (R) as in build_graph
  virtual void renew(const PairList &list, std::vector<std::int64_t> row,
                     std::vector<std::int64_t> row_types) = 0;

  // At each step: finds the edges at these positions (n_atoms,3).
  virtual const GraphTensors &update(const double *positions) = 0;

  // After evaluation.
  virtual const Response &gather(const ModelOutput &output, Want want) = 0;
};

}    // namespace dpsim
