// What is written behind the model's file in a LAMMPS input, and the extra inputs that follow from it.
// Pure: no LAMMPS, no torch.
#pragma once

#include <string>
#include <vector>

namespace dpsim {

struct ModelInfo;

// Words of the input as they stand; of what is absent the list is empty.
struct Keywords {
  std::string device = "auto", mpi = "auto";
  std::vector<double> fparam, aparam, charge_spin;
  bool verbose = false;
};

bool is_keyword(const std::string &word);

// Throws std::runtime_error, one sentence, if a keyword is unknown or misses its values.
Keywords parse_keywords(const std::vector<std::string> &words);

// The same values for all steps and, of aparam, for all atoms; empty where the model takes none.
struct ModelInputs {
  std::vector<double> fparam, aparam, charge_spin;
};

// What a model runs with: the given values, else its own defaults. Throws std::runtime_error, one
// sentence, if values are missing, or are given to a model that takes none, or are not as many as it takes.
ModelInputs choose_inputs(const Keywords &given, const ModelInfo &info);

}    // namespace dpsim
