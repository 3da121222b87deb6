// Registration of dpsim's operators with torch's dispatcher, and nothing else.
//
// Fake kernels and derivatives are registered from Python (dpsim/ops): they are needed where
// graphs are traced, never where an exported model runs.
#include "halo_registry.h"

#include <torch/library.h>

TORCH_LIBRARY(dpsim, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("halo_extend(Tensor h, Tensor row_ref, Tensor plan) -> Tensor", tags);
  m.def("halo_fold(Tensor g, Tensor owned_ref, Tensor plan) -> Tensor", tags);
}

// The exchange knows devices by itself, so one function serves all of them.
TORCH_LIBRARY_IMPL(dpsim, CompositeExplicitAutograd, m) {
  m.impl("halo_extend", &dpsim::halo_extend);
  m.impl("halo_fold", &dpsim::halo_fold);
}
