#include "pair/compute_dpsim_tensor.h"

#include "pair/lammps_model.h"
#include "model/model_graph.h"
#include "model/model_info.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

using namespace LAMMPS_NS;

namespace {
constexpr const char *WHO = "compute dpsim/tensor/atom";
constexpr int FIRST = 3;    // word of the model file
}    // namespace

ComputeDPSimTensor::ComputeDPSimTensor(LAMMPS *lmp, int narg, char **arg) :
    Compute(lmp, narg, arg),
    model(std::make_unique<LammpsModel>(lmp, WHO, [this] { comm->forward_comm(this); }))
{
  const int n_types = atom->ntypes;
  if (narg <= FIRST + n_types)
    error->all(FLERR, "{} needs a model file and one element for each of the {} atom types, for example: compute d all "
               "dpsim/tensor/atom dipole.pt2 O H", WHO, n_types);
  model->load(arg[FIRST], std::vector<std::string>(arg + FIRST + 1 + n_types, arg + narg));
  const auto &info = model->info();
  if (info.output == "energy")
    error->all(FLERR, "{}: model file {} is a potential; use \"pair_style dpsim {}\" and \"compute pe/atom\"", WHO,
               arg[FIRST], arg[FIRST]);
  model->map_types(WHO, arg + FIRST + 1, true);
  peratom_flag = 1;
  size_peratom_cols = static_cast<int>(info.output_size);
  comm_forward = model->comm_size();
}

ComputeDPSimTensor::~ComputeDPSimTensor() { memory->destroy(values); }

void ComputeDPSimTensor::init()
{
  model->init();
  check_cutoff();
  neighbor->add_request(this, NeighConst::REQ_FULL | NeighConst::REQ_OCCASIONAL);
}

// LAMMPS lists neighbours as far as the pair style asks for.
void ComputeDPSimTensor::check_cutoff()
{
  if (!force->pair)
    error->all(FLERR, "{} needs a pair style, by which LAMMPS knows how far to list neighbors; write \"pair_style zero "
               "{}\" and \"pair_coeff * *\" if there is no other", WHO, model->neighbor_cutoff());
  for (int i = 1; i <= atom->ntypes; ++i)
    for (int j = i; j <= atom->ntypes; ++j) {
      if (model->model_type(i) < 0 || model->model_type(j) < 0) continue;
      const double listed = std::sqrt(force->pair->cutsq[i][j]);
      if (listed < model->neighbor_cutoff() * (1.0 - 1e-12))
        error->all(FLERR, "{}: neighbors of types {} and {} are listed up to a distance of {}, the model sees up to {}; write "
                   "\"pair_style hybrid/overlay zero {} ...\" with the styles there are", WHO, i, j, listed,
                   model->neighbor_cutoff(), model->neighbor_cutoff());
    }
}

void ComputeDPSimTensor::init_list(int, NeighList *ptr) { list = ptr; }

void ComputeDPSimTensor::compute_peratom()
{
  invoked_peratom = update->ntimestep;
  if (atom->nmax > n_values) {
    memory->destroy(values);
    n_values = atom->nmax;
    memory->create(values, n_values, size_peratom_cols, "dpsim/tensor/atom:values");
    array_atom = values;
  }
  neighbor->build_one(list);
  const double *found = nullptr;
  try {
    model->evaluate(list, {false, true, false});
    found = model->atomic_values();
  } catch (const std::exception &e) {
    error->one(FLERR, std::string(WHO) + ": " + e.what());
  }
  for (int i = 0; i < atom->nlocal; ++i) std::fill_n(values[i], size_peratom_cols, 0.0);
  const auto &centers = model->centers();
  for (std::size_t k = 0; k < centers.size(); ++k)
    if (atom->mask[centers[k]] & groupbit)
      std::copy_n(found + k * size_peratom_cols, size_peratom_cols, values[centers[k]]);
}

int ComputeDPSimTensor::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  return model->pack(n, atoms, buffer);
}

void ComputeDPSimTensor::unpack_forward_comm(int n, int first, double *buffer) { model->unpack(n, first, buffer); }

double ComputeDPSimTensor::memory_usage()
{
  return model->memory_usage() + static_cast<double>(n_values) * size_peratom_cols * sizeof(double);
}
