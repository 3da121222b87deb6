// A model evaluated for all centres, one piece of them after the other.
#pragma once

#include "model/model_graph.h"

#include <cstdint>

namespace dpsim {

class ExportedModel;
struct Surroundings;

// Evaluates `model` where the atoms of `graph` are placed, and leaves the sums in it: graph.gather() is next. Returns
// how much there was. Collective over the ranks of the plan if `plan` is not 0, which only graphs of one piece may have,
// and over those of the surroundings, which models with electrostatics need. Throws std::runtime_error.
GraphSizes evaluate_pieces(ExportedModel &model, ModelGraph &graph, Want want, std::int64_t plan,
                           const Surroundings *around);

}    // namespace dpsim
