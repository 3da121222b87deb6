#include "model/piecewise.h"

#include "model/electrostatics.h"
#include "model/error_words.h"
#include "model/exported_model.h"
#include "model/graph_tensors.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace dpsim {
namespace {

const GraphTensors &edges_of(ModelGraph &graph, const Piece &piece)
{
  try {
    return graph.edges(piece);
  } catch (const std::exception &) {
    const std::string words = error_words();
    if (!tells_of_memory(words)) throw std::runtime_error("finding the neighbors failed: " + words);
    throw std::runtime_error("there is not enough memory for the neighbors of " + std::to_string(piece.size()) +
                             " atoms; use more ranks on more machines, fewer atoms or, if the model passes no messages, "
                             "a smaller number behind the keyword chunk");
  }
}

}    // namespace

GraphSizes evaluate_pieces(ExportedModel &model, ModelGraph &graph, Want want, std::int64_t plan,
                           const Surroundings *around)
{
  const c10::InferenceMode inference;
  GraphSizes all;
  std::vector<at::Tensor> dipoles;
  graph.begin(want);
  for (const Piece &piece : graph.pieces()) {
    const GraphTensors &edges = edges_of(graph, piece);
    const GraphSizes sizes = sizes_of(edges);
    all = {all.pieces + 1, all.edges + sizes.edges, all.pairs + sizes.pairs};
    const ModelOutput output = model.evaluate(edges, plan);
    graph.add(output);
    if (output.dipoles.defined()) dipoles.push_back(output.dipoles);
  }
  if (!around) return all;
  // What acts on the centroids is known when those of all atoms are; the edges of pieces are found once more.
  const LongRange found = model.electrostatics(graph.types(), at::cat(dipoles), *around);
  for (const Piece &piece : graph.pieces()) {
    const at::Tensor forces = found.centroid_forces.narrow(0, piece.first, piece.size());
    graph.add(model.pull(edges_of(graph, piece), plan, forces));
  }
  graph.add(found);
  return all;
}

}    // namespace dpsim
