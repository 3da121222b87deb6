// The neighbourhood of one rank's atoms as plain arrays, and the way back from edges to atoms.
// Pure functions: no LAMMPS, no torch.
//
// N centres (owned atoms of the model), R feature rows (the centres, then remote atoms), E edges of the
// first list, B edges of a list within another one, A pairs of edges. "Atom" means an index into the
// positions, ghosts included: several atoms (periodic images) may share one feature row.
#pragma once

#include <cstdint>
#include <vector>

namespace dpsim {

// Which neighbours of a centre are edges of a list, and the lists within it; comes with the model.
// Places are counted by distance among all neighbours within the cutoff of the outermost list, and among
// those of the same type; excluded pairs take their places too. An edge of an inner list is one of the
// list around it.
struct NeighborSpec {
  double cutoff = 0.0;                      // Å; r <= cutoff, or r < cutoff if strict
  bool strict = false;
  bool pairs = false;                       // also all ordered pairs of the edges of a centre
  std::int64_t sel = 0;                     // only the sel nearest neighbours of a centre ...
  std::vector<std::int64_t> sel_by_type;    // ... and only so many nearest of each type; empty: no such limit
  std::int64_t n_types = 0;
  std::vector<char> excluded;               // (centre, neighbour), n_types x n_types, nonzero: no edge; may be empty
  std::vector<NeighborSpec> inner;

  bool reaches(double r2) const { return strict ? r2 < cutoff * cutoff : r2 <= cutoff * cutoff; }
  bool operator==(const NeighborSpec &) const = default;
};

// A list and the position of the list around it among all; -1 for the outermost.
struct ListNode {
  const NeighborSpec *spec = nullptr;
  int parent = -1;
};

// All lists in the order of the model's inputs: each one, then those within it. Points into `spec`.
std::vector<ListNode> all_lists(const NeighborSpec &spec);

// A full neighbour list with skin, as LAMMPS holds it. Nothing is owned.
struct PairList {
  std::int64_t n_centers = 0;
  const int *centers = nullptr;          // (n_centers) atoms; centre c has feature row c
  const int *n_neighbors = nullptr;      // by atom
  const int *const *neighbors = nullptr; // by atom
  int mask = -1;                         // bits of an entry that are the atom index
};

// Consecutive centres [first, end), whose edges are found at a time.
struct Piece {
  std::int64_t first = 0, end = 0;
  std::int64_t size() const { return end - first; }
  bool operator==(const Piece &) const = default;
};

// How many centres a piece has: so many, or, where `centers` is negative, as many as have so many edges and pairs of
// edges together, but one at least. With `centers` 0 all are one piece.
struct PieceRule {
  std::int64_t centers = 0, items = 0;
};

// The pieces that all centres are divided into, one after the other; without centres a single empty one. Counted is
// what lies within the cutoffs at these positions, which are as in build_graph.
std::vector<Piece> divide_centers(const PieceRule &rule, const NeighborSpec &spec, const PairList &list,
                                  const double *positions, const std::int64_t *row);

// The edges of one list; of the outermost list without `edge`.
struct EdgeList {
  std::vector<std::int64_t> edge;        // (B) ascending indices of edges of the list around it
  std::vector<std::int64_t> edge_ptr;    // (N+1) CSR of the centres
  std::vector<std::int64_t> pair_ij;     // (A) ascending positions in this list; without pairs empty,
  std::vector<std::int64_t> pair_ik;     // (A) like these
  std::vector<std::int64_t> pair_ptr;    // (B+1) CSR of pair_ij
};

// The edges of a piece in the order of the model's inputs; see the format of the exported graph. Centres are counted
// from the first one of the piece.
struct Graph {
  std::vector<double> displacements;       // (E,3) Å, neighbour minus centre
  std::vector<std::int64_t> center;        // (E) ascending
  std::vector<std::int64_t> neighbor;      // (E) feature row
  std::vector<int> neighbor_atom;          // (E) atom at the far end
  std::vector<EdgeList> lists;             // in the order of all_lists
  std::int64_t n_edges() const { return static_cast<std::int64_t>(center.size()); }
};

// Finds the edges of a piece at these positions. Memory of `graph` is reused. If the piece is not all of the list,
// neighbours are known by their types alone: the feature rows are then the n centres of the piece and one row n + t
// for each type t.
//   positions  (n_atoms,3) Å
//   row        (n_atoms) feature row of each atom; < 0: the atom is not part of the model
//   row_types  (R) type of each feature row
void build_graph(const NeighborSpec &spec, const PairList &list, const double *positions, const std::int64_t *row,
                 const std::int64_t *row_types, const Piece &piece, Graph &graph);

// Sums an edge gradient dE/dd (E,3) to atoms. All outputs are added to.
//   centers      atoms of the centres of the graph
//   forces       (n_atoms,3): +g on the centre, -g on the neighbour
//   virial       (3,3) row-major, -sum g_k d_l; may be null
//   atom_virial  (n_atoms,3,3), the same sum, each term given to the neighbour; may be null
void scatter_gradient(const Graph &graph, const int *centers, const double *gradient,
                      double *forces, double *virial, double *atom_virial);

}    // namespace dpsim
