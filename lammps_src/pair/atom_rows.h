// Feature rows of the atoms that LAMMPS holds on this rank, found anew with each neighbour list. Those of
// the atoms in the list come first; ghosts follow, or share the row of their owner if rows are exchanged.
#pragma once

#include "halo/halo.h"
#include "system/neighborhood.h"

#include "pointers.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace LAMMPS_NS {

class AtomRows : protected Pointers {
 public:
  // `forward` makes LAMMPS call pack() and unpack() for all ghosts.
  AtomRows(class LAMMPS *lmp, std::function<void()> forward);

  // Which LAMMPS types (from 1) are part of the model. `linked`: rows are exchanged between ranks. `doubled`: there
  // is a virtual atom for each, see SpinSystem; rows of these follow the others.
  void set_types(std::vector<char> taken, bool linked, bool doubled);

  // Whether this is another list, or other atoms, than at the last call. Collective if rows are exchanged.
  bool is_new(class NeighList *list);
  void forget() { builds_ = -1; }

  // Numbers the rows; collective if they are exchanged.
  void renew(class NeighList *list, dpsim::Halo &halo);

  // Results of renew(). Rows of n_all atoms and, if doubled, of their virtual atoms; LAMMPS types of the rows, those
  // of virtual atoms negative.
  const std::vector<int> &centers() const { return centers_; }
  const std::vector<std::int64_t> &row() const { return row_; }
  const std::vector<int> &row_types() const { return row_types_; }
  dpsim::PairList pairs() const;

  // Forward communication: numbers for each atom.
  int width() const { return doubled_ ? 3 : 2; }
  int pack(int n, const int *atoms, double *buffer) const;
  void unpack(int n, int first, const double *buffer);

  double memory_usage() const;

 private:
  void number_owned();
  void link_ghosts(dpsim::Halo &halo);
  void count_ghosts();
  void find_types();

  std::function<void()> forward_;
  std::vector<char> taken_;              // by LAMMPS type
  std::vector<int> centers_, row_types_;
  std::vector<std::int64_t> row_;
  bool linked_ = false, doubled_ = false;
  class NeighList *list_ = nullptr;
  std::vector<double> owner_;            // (n_all, width) rank and rows of each atom's owner
  bigint builds_ = -1;                   // neighbour lists seen, by LAMMPS's count
  int built_local_ = -1;
  std::vector<int> built_types_;
};

}    // namespace LAMMPS_NS
