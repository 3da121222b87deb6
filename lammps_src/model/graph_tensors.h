// The inputs of an exported model as tensors on its device. Internal: everything that includes
// this file includes ATen.
#pragma once

#include "system/neighborhood.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
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

// What the exported graph takes (format 2), without the model's extra inputs and the plan, for the centres of a piece.
struct GraphTensors {
  std::int64_t first = 0, n_all = 0;    // number of the first of these centres, and of all centres of the rank
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

// What the exported graphs return for a piece; what does not apply is undefined.
struct ModelOutput {
  at::Tensor atomic;           // float64: (N) eV of an energy model, (N,k) of others
  at::Tensor edge_gradient;    // (E,3) float64, eV/Å, of energies
  at::Tensor dipoles;          // (N,3) Å, float64, of models with electrostatics
};

// Puts the rows of a piece among those of all `n_all` centres, which are made with the first piece.
void keep_rows(const at::Tensor &rows, const Piece &piece, std::int64_t n_all, at::Tensor &all);

}    // namespace dpsim
