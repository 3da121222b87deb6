// The inputs of an exported model as tensors on its device. Internal: everything that includes
// this file includes ATen.
#pragma once

#include <ATen/core/Tensor.h>

namespace dpsim {

// In the order of the exported graph's inputs (format 1), without the plan.
struct GraphTensors {
  at::Tensor displacements, types, row_types, frame, center, neighbor, edge_ptr, angle_edge, angle_ij,
      angle_ik, angle_ptr;
};

// What the exported graph returns.
struct ModelOutput {
  at::Tensor atomic_energy;    // (N) float64, eV
  at::Tensor edge_gradient;    // (E,3) float64, eV/Å
};

}    // namespace dpsim
