// The doubled system of a spin model: to each of n atoms belongs a virtual one, displaced by an offset
// (its spin times a length of the model), with the index of the atom plus n. Pure: no LAMMPS, no torch.
#pragma once

#include "system/neighborhood.h"

#include <cstdint>
#include <vector>

namespace dpsim {

class SpinSystem {
 public:
  // The list of all 2n atoms: centres are those of `list`, then their virtual atoms; a centre sees its own
  // partner, the neighbours of the atom in `list`, and their virtual atoms. Takes a copy of `list`; valid
  // until the next call.
  PairList renew(const PairList &list, std::int64_t n);

  // Positions (2n,3) from those of the atoms (n,3) and the offsets (n,3) Å, which are kept for fold().
  const double *place(const double *positions, const double *offsets);

  // What the model's answers for 2n atoms mean for n. Forces of both act on the atom; those on the
  // virtual one also turn the spin. The virial is that of a strain which leaves spins as they are.
  //   forces       (2n,3), virial (3,3) or null, atom_virial (2n,3,3) or null; the latter two are changed
  //                in place, atom_virial's first n members are the result
  void fold(const double *forces, double *virial, double *atom_virial);
  const double *forces() const { return forces_.data(); }                    // (n,3)
  const double *virtual_forces() const { return virtual_forces_; }           // (n,3), into those given

 private:
  std::int64_t n_ = 0;
  std::vector<int> centers_, counts_, neighbors_;
  std::vector<const int *> first_;
  std::vector<double> positions_, offsets_, forces_;
  const double *virtual_forces_ = nullptr;
};

}    // namespace dpsim
