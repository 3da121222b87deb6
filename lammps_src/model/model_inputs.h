// What is written behind the model's file in a LAMMPS input, and the extra inputs that follow from it.
// Pure: no LAMMPS, no torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dpsim {

struct ModelInfo;

// How the deviation of an ensemble is written.
struct DeviationKeywords {
  std::string given;                  // one of the keywords below that was written; empty: none
  std::string file = "model_devi.out";
  std::int64_t every = 100;           // steps; 0: never
  bool atomic = false;                // also that of each atom
  double relative = -1.0;             // level of relative deviations of forces, in LAMMPS's units; negative: absolute
  double relative_v = -1.0;           // likewise of the virial
};

// Words of the input as they stand; of what is absent the list or the text is empty.
struct Keywords {
  std::string device = "auto", mpi = "auto";
  std::vector<double> fparam, aparam, charge_spin;
  bool verbose = false;
  std::int64_t chunk = -1;                                   // atoms evaluated at a time, 0: all; negative: not given
  std::string fparam_compute, aparam_compute, fparam_fix;    // IDs
  int fparam_fix_index = 0;                                  // first member of the fix's vector, from 1; 0: not given
  DeviationKeywords deviation;

  bool fparam_changes() const { return !fparam_compute.empty() || !fparam_fix.empty(); }
  bool aparam_changes() const { return !aparam_compute.empty(); }
};

bool is_keyword(const std::string &word);

// Throws std::runtime_error, one sentence, if a keyword is unknown, misses its values or contradicts another.
Keywords parse_keywords(const std::vector<std::string> &words);

// Values for all atoms of a step and, of aparam, for each atom alike; empty where the model takes none, or where
// they change during a run.
struct ModelInputs {
  std::vector<double> fparam, aparam, charge_spin;
};

// What a model runs with: the given values, else its own defaults. Throws std::runtime_error, one
// sentence, if values are missing, or are given to a model that takes none, or are not as many as it takes.
ModelInputs choose_inputs(const Keywords &given, const ModelInfo &info);

}    // namespace dpsim
