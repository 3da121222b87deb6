// Lines about the first step of a run: how the work lies on the ranks, what they send each other, their memory.
#pragma once

#include "halo/halo.h"
#include "model/model_graph.h"

#include "pointers.h"

#include <cstdint>
#include <string>

namespace LAMMPS_NS {

// Collective. `atoms` are the centres on this rank; `device_bytes` is the largest amount of GPU memory that torch
// has held so far, 0 on the CPU. The bytes are those of the exchanges since halo.begin().
void report_run(class LAMMPS *lmp, const std::string &who, std::int64_t atoms, const dpsim::GraphSizes &sizes,
                const dpsim::Halo &halo, std::int64_t device_bytes);

}    // namespace LAMMPS_NS
