// What a frozen model says about itself: the JSON text under the key "dpsim" of its metadata.
#pragma once

#include "system/neighborhood.h"

#include <cstdint>
#include <string>
#include <vector>

namespace dpsim {

class JsonValue;

inline constexpr int MODEL_FORMAT = 2;
inline constexpr int LONG_RANGE_FORMAT = 3;    // of models with electrostatics

// Charges of a model with electrostatics, and how their energy is summed.
struct Charges {
  std::vector<double> ion, centroid;    // (types) e; empty: the model has none
  double spacing = 0.0;                 // Å
  double beta = 0.0;                    // 1/Å
};

struct ModelInfo {
  std::vector<std::string> type_map;
  NeighborSpec neighbors;
  std::string dtype;     // "float32" or "float64"
  std::string device;    // "cpu" or "cuda"
  std::string torch;     // version that compiled it
  std::string dpsim;     // version that froze it
  std::string digest;
  std::int64_t message_passing_layers = 0;

  std::string output;                     // "energy", or what else the model gives for each atom
  std::int64_t output_size = 1;           // numbers an atom
  bool intensive = false;                 // the mean over atoms is meant, not the sum

  std::int64_t n_fparam = 0, n_aparam = 0;
  std::vector<double> default_fparam;     // (n_fparam), or empty: has none
  bool charge_spin = false;
  std::vector<double> default_charge_spin;    // charge and spin, or empty: has none

  std::vector<double> virtual_scale;      // spin models: Å/μB by type, 0: not magnetic; others: empty

  Charges charges;

  bool has_spin() const { return !virtual_scale.empty(); }
  bool has_electrostatics() const { return !charges.ion.empty(); }
};

// Throws std::runtime_error, one sentence without the file's name, if the text is not JSON, lacks a
// key, or is of another format version.
ModelInfo parse_model_info(const std::string &json);

// The lists of a model whose graph knows `n_types` types (virtual ones included). Throws likewise.
NeighborSpec parse_neighbors(const JsonValue &json, std::int64_t n_types);

}    // namespace dpsim
