// From positions to the model's inputs and from its outputs to forces, every step; on the CPU by
// plain loops over LAMMPS's list, on a GPU by tensor operations over edges that stay there between
// reneighbourings, so that a step sends positions and brings back forces.
#pragma once

#include "system/neighborhood.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace at {
class Tensor;
}

namespace dpsim {

struct GraphTensors;
struct LongRange;
struct ModelOutput;

struct Want {
  bool virial = false, atomic_values = false, atom_virial = false;
};

// What a step gives to LAMMPS; "atom" includes ghosts. Valid until the next begin().
struct Response {
  double energy = 0.0;                     // eV, of this rank's atoms
  double virial[9] = {};                   // eV, row-major, of this rank's edges; if wanted
  const double *atomic_values = nullptr;   // (N,k) of the centres, of an energy model eV; if wanted
  const double *forces = nullptr;          // (n_atoms,3) eV/Å, partial: ghosts' go to their owners; of energy models
  const double *atom_virial = nullptr;     // (n_atoms,3,3) eV, partial likewise; if wanted
  const double *virtual_forces = nullptr;  // (n_atoms,3) eV/Å of spin models, after SpinSystem::fold; partial
};

// How much there is to do at a step.
struct GraphSizes {
  std::int64_t pieces = 0, edges = 0, pairs = 0;    // edges of the outermost list, pairs of all lists
};
GraphSizes sizes_of(const GraphTensors &tensors);

// The rule by which a model is evaluated in pieces. One whose atoms pass messages cannot be. `atoms` as in the
// keyword chunk; negative: not given, then pieces have a size that keeps processor and memory of the device busy.
PieceRule piece_rule(bool passes_messages, std::int64_t atoms, const std::string &device);

// The edges are found for one piece of the centres after the other, so that they and the model's memory need not grow
// with the number of atoms:
//
//   graph.place(positions); graph.begin(want);
//   for (const auto &piece : graph.pieces()) graph.add(evaluated(graph.edges(piece)));
//   graph.gather();
class ModelGraph {
 public:
  // device as torch writes it; "cpu" with `tensor_path` takes the GPU's path on the CPU (tests).
  static std::unique_ptr<ModelGraph> make(const NeighborSpec &spec, const std::string &device,
                                          const PieceRule &rule = {}, bool tensor_path = false);
  virtual ~ModelGraph() = default;

  // At each new neighbour list. `list` must stay valid until the next call; the vectors are taken.
  //   row (n_atoms), row_types (R) as in build_graph
  virtual void renew(const PairList &list, std::vector<std::int64_t> row,
                     std::vector<std::int64_t> row_types) = 0;

  // At each step: where the atoms are now, (n_atoms,3) Å. They must stay there until the next call.
  virtual void place(const double *positions) = 0;

  const std::vector<Piece> &pieces() const { return pieces_; }
  virtual const at::Tensor &types() const = 0;    // (N) of all centres

  // The edges of a piece; valid until another one is asked for.
  virtual const GraphTensors &edges(const Piece &piece) = 0;

  // Sums what models give: of the piece whose edges were found last, and of all centres.
  virtual void begin(Want want) = 0;
  virtual void add(const ModelOutput &output) = 0;
  virtual void add(const LongRange &output) = 0;
  virtual const Response &gather() = 0;

 protected:
  explicit ModelGraph(const PieceRule &rule) : rule_(rule) {}

  PieceRule rule_;
  std::vector<Piece> pieces_;    // empty: to be found where the atoms are next
};

}    // namespace dpsim
