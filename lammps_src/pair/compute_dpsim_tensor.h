// compute ID group dpsim/tensor/atom MODEL.pt2 El1 El2 ... [keywords]: what a frozen dpsim model other than a
// potential gives for each atom, one column for each number: dipoles, polarizabilities, densities of states ...
#pragma once

#include "compute.h"

#include <memory>

namespace LAMMPS_NS {

class ComputeDPSimTensor : public Compute {
 public:
  ComputeDPSimTensor(class LAMMPS *, int, char **);
  ~ComputeDPSimTensor() override;

  void init() override;
  void init_list(int, class NeighList *) override;
  void compute_peratom() override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  double memory_usage() override;

 protected:
  std::unique_ptr<class LammpsModel> model;
  class NeighList *list = nullptr;
  double **values = nullptr;
  int n_values = 0;    // rows that `values` has room for

  void check_cutoff();
};

}    // namespace LAMMPS_NS
