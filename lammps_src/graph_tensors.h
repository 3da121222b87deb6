// The inputs of an exported model as tensors on its device. Internal: everything that includes
// this file includes ATen.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace dpsim {

// All ordered pairs of edges of a list; undefined where the list has none.
struct PairTensors {
  at::Tensor ij, ik, ptr;
};

struct ListTensors {
  at::Tensor edge, edge_ptr;    // the outermost list has no `edge`
  PairTensors pairs;
};

// What the exported graph takes (format 2), without the model's extra inputs and the plan.
struct GraphTensors {
  at::Tensor displacements, types, row_types, frame, center, neighbor;
  std::vector<ListTensors> lists;    // each list, then those within it

  // In the order of the exported graph's inputs.
  std::vector<at::Tensor> in_order() const
  {
    std::vector<at::Tensor> out{displacements, types, row_types, frame, center, neighbor};
    for (const auto &list : lists) {
      if (list.edge.defined()) out.push_back(list.edge);
      out.push_back(list.edge_ptr);
      if (list.pairs.ij.defined()) out.insert(out.end(), {list.pairs.ij, list.pairs.ik, list.pairs.ptr});
    }
    return out;
  }
};

// What the exported graph returns.
struct ModelOutput {
  at::Tensor atomic;           // float64: (N) eV of an energy model, (N,k) of others
  at::Tensor edge_gradient;    // (E,3) float64, eV/Å; undefined where the output is no energy

  // What acts on the centres beside the gradient, of models with electrostatics; else undefined.
  at::Tensor forces;         // (N,3) eV/Å
  at::Tensor virial;         // (9) eV, this rank's part
  at::Tensor atom_virial;    // (N,9) eV, if asked for
};

}    // namespace dpsim
