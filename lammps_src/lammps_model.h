// A frozen model inside LAMMPS: what the pair style and the computes of dpsim have in common. It is loaded
// and checked, knows which LAMMPS type is which element, and is evaluated for the atoms of a neighbour list.
#pragma once

#include "model_inputs.h"

#include "pointers.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace dpsim {
struct ModelInfo;
struct Response;
struct Surroundings;
struct Want;
}    // namespace dpsim

namespace LAMMPS_NS {

class LammpsModel : protected Pointers {
 public:
  // `who` begins every message, "pair_style dpsim" for example. `forward` makes LAMMPS communicate to all
  // ghosts through the owner's methods, which call pack() and unpack().
  LammpsModel(class LAMMPS *lmp, std::string who, std::function<void()> forward);
  ~LammpsModel() override;

  // Collective; stops the program if the file or the keywords are not what they should be.
  void load(const std::string &path, const std::vector<std::string> &keywords);
  const dpsim::ModelInfo &info() const;
  const std::string &path() const;

  // One word for each LAMMPS type: an element of the model, or NULL, which is refused unless `may_be_null`.
  // `where` begins the messages.
  void map_types(const std::string &where, const char *const *words, bool may_be_null);
  int model_type(int lammps_type) const;

  // At the beginning of each run: units, and what else in the input would be wrong with any model.
  // Returns LAMMPS's unit of energy in 1/eV.
  double init();

  // Distance up to which LAMMPS must list neighbours, after init().
  double neighbor_cutoff() const;

  // Evaluates the model for the atoms of this list, where they are now. Collective if the model passes
  // messages; ranks without atoms take part. Throws std::runtime_error, and then other ranks may be waiting for
  // this one: stop them with error->one().
  // Models with electrostatics give shares of the virial only with `atom_virial`.
  void evaluate(class NeighList *list, bool atom_virial = false);
  const std::vector<int> &centers() const;     // atoms in the order of the model's rows
  const double *atomic_values();               // (centers, output_size) of the last evaluation
  // Of an energy model. Collective; stops the program if a position or a result on any rank is no number.
  dpsim::Response gather(const dpsim::Want &want);

  int comm_size() const;    // numbers in forward communication for each atom
  int pack(int n, const int *atoms, double *buffer) const;
  void unpack(int n, int first, const double *buffer);

  double halo_bytes() const;    // sent by this rank in the last evaluation
  double memory_usage() const;

  // Runs `action` on every rank; if it throws on any, all ranks stop with the message of the lowest.
  void all_or_none(const std::function<void()> &action);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl;
  std::string who;

  void check_program();
  double check_units();
  void check_special_bonds();
  void check_spins();
  void check_numbers(const dpsim::Response &response);
  void warn_about_exclusions();
  double spin_scale(int i) const;
  double largest_offset() const;
  const double *positions();
  void check_periodic();
  const dpsim::Surroundings *surroundings(bool atom_virial);
};

}    // namespace LAMMPS_NS
