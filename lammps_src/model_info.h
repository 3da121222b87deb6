// What a frozen model says about itself: the JSON text under the key "dpsim" of its metadata.
#pragma once

#include "neighborhood.h"

#include <cstdint>
#include <string>
#include <vector>

namespace dpsim {

inline constexpr int MODEL_FORMAT = 1;

struct ModelInfo {
  std::vector<std::string> type_map;
  CutoffRule rule;
  std::string dtype;     // "float32" or "float64"
  std::string device;    // "cpu" or "cuda"
  std::string torch;     // version that compiled it
  std::string dpsim;     // version that froze it
  std::string digest;
  std::int64_t message_passing_layers = 0;
  std::int64_t n_fparam = 0, n_aparam = 0;    // extra inputs; 0 in a file that does not name them
  std::vector<std::string> outputs;
};

// Throws std::runtime_error, one sentence without the file's name, if the text is not JSON, lacks a
// key, or is of another format version.
ModelInfo parse_model_info(const std::string &json);

}    // namespace dpsim
