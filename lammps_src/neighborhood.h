// The neighbourhood of one rank's atoms as plain arrays, and the way back from edges to atoms.
// Pure functions: no LAMMPS, no torch.
//
// N centres (owned atoms of the model), R feature rows (the centres, then remote atoms), E edges,
// B angle-edges, A angles. "Atom" means an index into the positions, ghosts included: several
// atoms (periodic images) may share one feature row.
#pragma once

#include <cstdint>
#include <vector>

namespace dpsim {

// Which pairs are edges and which edges form angles; comes with the model.
struct CutoffRule {
  double cutoff = 0.0;        // Å; an edge has r <= cutoff
  std::int64_t e_sel = 0;     // only the e_sel nearest edges of a centre count
  double a_rcut = 0.0;        // Å; an angle-edge has r < a_rcut; 0: no angles
  std::int64_t a_sel = 0;     // only the a_sel nearest edges of a centre are angle-edges
  std::int64_t n_types = 0;
  std::vector<char> excluded; // n_types x n_types, nonzero: such a pair is never an edge; may be empty
};

// A full neighbour list with skin, as LAMMPS holds it. Nothing is owned.
struct PairList {
  std::int64_t n_centers = 0;
  const int *centers = nullptr;          // (n_centers) atoms; centre c has feature row c
  const int *n_neighbors = nullptr;      // by atom
  const int *const *neighbors = nullptr; // by atom
  int mask = -1;                         // bits of an entry that are the atom index
};

// The edges in the order of the model's inputs; see the format of the exported graph.
struct Graph {
  std::vector<double> displacements;       // (E,3) Å, neighbour minus centre
  std::vector<std::int64_t> center;        // (E) ascending
  std::vector<std::int64_t> neighbor;      // (E) feature row
  std::vector<std::int64_t> edge_ptr;      // (N+1)
  std::vector<std::int64_t> angle_edge;    // (B) ascending indices of edges
  std::vector<std::int64_t> angle_ij;      // (A) ascending positions in angle_edge
  std::vector<std::int64_t> angle_ik;      // (A)
  std::vector<std::int64_t> angle_ptr;     // (B+1)
  std::vector<int> neighbor_atom;          // (E) atom at the far end
  std::int64_t n_edges() const { return static_cast<std::int64_t>(center.size()); }
};

// Finds the edges at these positions. Memory of `graph` is reused.
//   positions  (n_atoms,3) Å
//   row        (n_atoms) feature row of each atom; < 0: the atom is not part of the model
//   row_types  (R) type of each feature row
void build_graph(const CutoffRule &rule, const PairList &list, const double *positions,
                 const std::int64_t *row, const std::int64_t *row_types, Graph &graph);

// Sums an edge gradient dE/dd (E,3) to atoms. All outputs are added to.
//   forces       (n_atoms,3): +g on the centre, -g on the neighbour
//   virial       (3,3) row-major, -sum g_k d_l; may be null
//   atom_virial  (n_atoms,3,3), the same sum, each term given to the neighbour; may be null
void scatter_gradient(const Graph &graph, const int *centers, const double *gradient,
                      double *forces, double *virial, double *atom_virial);

}    // namespace dpsim
