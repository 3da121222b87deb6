// The atoms of this rank as one model sees them: with its own types, in its own lists of edges and, if it is a spin
// model, with a virtual atom for each. Several models of an ensemble that see the same share a view.
#pragma once

#include "model/model_graph.h"
#include "model/model_info.h"
#include "system/spin_system.h"

#include "pointers.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

class AtomRows;

class ModelView : protected Pointers {
 public:
  // `who` begins every message, `file` names the model in them; `chunk` as the keyword says.
  ModelView(class LAMMPS *lmp, std::string who, std::string file, const dpsim::ModelInfo &info,
            const std::string &device, std::int64_t chunk);

  // Whether another model on the same device has the same types and lists.
  bool fits(const dpsim::ModelInfo &info) const;

  // By LAMMPS type (from 1) the model's type, or -1: not part of the model.
  void set_types(std::vector<int> types) { types_ = std::move(types); }
  int type(int lammps_type) const { return types_[lammps_type]; }

  // At the beginning of each run. Collective for spin models; stops the program if atoms have no spin.
  void init();

  // Å, distance up to which it needs neighbours; after init().
  double reach() const { return neighbors_.cutoff + 2.0 * spin_reach_; }

  // With each new neighbour list.
  void renew(const AtomRows &rows);

  // The atoms at these positions (n_all,3) Å, which are looked at once after each call of atoms_moved() and must stay
  // where they are until the next. Throws std::runtime_error.
  void atoms_moved() { is_placed_ = false; }
  dpsim::ModelGraph &graph(const double *positions);

  // What the evaluation of a model means for the atoms; valid until the next.
  dpsim::Response gather(const dpsim::Want &want);

  // Å/μB, by LAMMPS type; 0 if the type has no virtual atoms.
  double virtual_scale(int lammps_type) const;

 private:
  double offset_scale(int i) const;
  double largest_offset() const;
  const double *with_virtual_atoms(const double *x);

  std::string who_, file_;
  std::vector<std::string> type_map_;
  dpsim::NeighborSpec neighbors_;
  bool passes_messages_;
  std::vector<double> virtual_scale_;         // by type of the model; empty: no spins
  std::vector<int> types_;
  std::unique_ptr<dpsim::ModelGraph> graph_;
  bool is_placed_ = false;
  std::unique_ptr<dpsim::SpinSystem> spin_;
  double spin_reach_ = 0.0;                   // Å, longest offset of a virtual atom that the list allows for
  std::vector<double> offsets_;               // (n_all,3) Å, of virtual atoms
  std::vector<double> atom_virial_;           // of spin models
};

}    // namespace LAMMPS_NS
