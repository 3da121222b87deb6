// Which device a rank runs a model on. Pure: no LAMMPS, no torch.
#pragma once

#include <string>

namespace dpsim {

// Throws std::runtime_error, one sentence that goes behind the name of the model, if a model that was frozen for
// the device `made_for` cannot do what the keyword `wanted` (auto, cpu or cuda) says.
void check_device(const std::string &made_for, const std::string &wanted);

// Number of the GPU of a rank that is the `local_rank`-th on its machine: ranks take turns, so that each has its
// own, or as many share one as must. `n_devices` is what CUDA shows to this rank, which may be less than there is.
// Throws likewise if there is none.
int choose_gpu(int n_devices, int local_rank);

}    // namespace dpsim
