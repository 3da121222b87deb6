// A frozen model inside LAMMPS, or several as an ensemble of which the first drives: what the pair style and the
// computes of dpsim have in common. It is loaded and checked, knows which LAMMPS type is which element, and is
// evaluated for the atoms of a neighbour list, in the units of the input.
#pragma once

#include "pair/input_sources.h"
#include "pair/lammps_units.h"
#include "model/model_inputs.h"

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

  // Collective; stops the program if the files or the keywords are not what they should be. A single path: no ensemble.
  void load(const std::vector<std::string> &paths, const std::vector<std::string> &keywords);
  void load(const std::string &path, const std::vector<std::string> &keywords) { load(std::vector{path}, keywords); }
  int size() const;    // number of models
  const dpsim::ModelInfo &info(int k = 0) const;
  const std::string &path(int k = 0) const;
  const dpsim::Keywords &keywords() const { return keywords_; }

  // One word for each LAMMPS type: an element of all models, or NULL, which is refused unless `may_be_null`.
  // `where` begins the messages.
  void map_types(const std::string &where, const char *const *words, bool may_be_null);
  int model_type(int lammps_type) const;    // of the first model
  double virtual_scale(int k, int lammps_type) const;    // Å/μB of model k; 0: not magnetic

  // At the beginning of each run: units, and what else in the input would be wrong with any model.
  void init();
  const LammpsUnits &units() const { return units_; }

  // Distance up to which LAMMPS must list neighbours, in its own units; after init().
  double neighbor_cutoff() const;

  // Evaluates the first model for the atoms of this list, where they are now; then another one for the same. Collective
  // if models pass messages; ranks without atoms take part. Throws std::runtime_error, and then other ranks may be
  // waiting for this one: stop them with error->one().
  void evaluate(class NeighList *list, const dpsim::Want &want);
  void evaluate_other(int k, const dpsim::Want &want);
  const std::vector<int> &centers() const;     // atoms in the order of the model's rows
  // (centers, output_size) of the last evaluation; then all of it, of an energy model. Collective is the second, and
  // stops the program if a position or a result on any rank is no number.
  const double *atomic_values();
  dpsim::Response gather();

  int comm_size() const;    // numbers in forward communication for each atom
  int pack(int n, const int *atoms, double *buffer) const;
  void unpack(int n, int first, const double *buffer);

  double halo_bytes() const;    // sent by this rank in the last evaluation of the first model
  double memory_usage() const;

  // Runs `action` on every rank; if it throws on any, all ranks stop with the message of the lowest.
  void all_or_none(const std::function<void()> &action);

 private:
  struct Member;
  struct Impl;
  std::unique_ptr<Impl> impl;
  std::string who;
  dpsim::Keywords keywords_;
  LammpsUnits units_;
  InputSources sources_;

  void check_program();
  int rank_on_machine() const;
  void load_members(const std::vector<std::string> &paths);
  void check_same_files();
  void check_chunk();
  void check_ensemble();
  void choose_inputs();
  void report(const std::string &halo) const;
  std::vector<int> find_types(int k, const std::string &where, const char *const *words, bool may_be_null);
  void check_special_bonds();
  void check_numbers(const dpsim::Response &response);
  void warn_about_exclusions();
  bool any_passes_messages() const;
  const double *positions();
  void check_periodic(int k);
  const dpsim::Surroundings *surroundings(int k);
  void update_inputs();
};

}    // namespace LAMMPS_NS
