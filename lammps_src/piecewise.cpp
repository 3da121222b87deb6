#include "piecewise.h"

#include "electrostatics.h"
#include "exported_model.h"
#include "graph_tensors.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <vector>

namespace dpsim {

GraphSizes evaluate_pieces(ExportedModel &model, ModelGraph &graph, Want want, std::int64_t plan,
                           const Surroundings *around)
{
  const c10::InferenceMode inference;
  GraphSizes all;
  std::vector<at::Tensor> dipoles;
  graph.begin(want);
  for (const Piece &piece : graph.pieces()) {
    const GraphTensors &edges = graph.edges(piece);
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
    graph.add(model.pull(graph.edges(piece), plan, forces));
  }
  graph.add(found);
  return all;
}

}    // namespace dpsim
