// A frozen dpsim model as a LAMMPS pair style.
//
//   pair_style dpsim MODEL.pt2 [MODEL2.pt2 ...] [device auto|cpu|cuda] [mpi auto|device|host] [verbose yes|no]
//                    [fparam v1 v2 ... | fparam_from_compute ID | fparam_from_fix ID [INDEX]]
//                    [aparam v1 v2 ... | aparam_from_compute ID] [charge_spin q s]
//                    [out_file FILE] [out_freq STEPS] [atomic] [relative LEVEL] [relative_v LEVEL]
//   pair_coeff * * El1 El2 ...        # for each atom type an element, or NULL under hybrid
//
// fparam, aparam (the same for all atoms) and charge_spin belong to models that take them; from a compute or a fix they
// are taken anew whenever forces are computed, an index counts from 1. Of several models the first drives, and the last
// five keywords say how the deviation between all is written (see model_deviation.h). All units but lj are converted.
// "fix adapt ... pair dpsim scale * * v_name" scales energy, forces and virial, but not the deviation.
//
// Spin models need "atom_style spin" and metal units; they add to fm, which LAMMPS understands in rad/ps. The pressure
// then is that at fixed spins, with the upper triangle of the virial: strain as LAMMPS changes boxes. Models with
// electrostatics (DPLR) need a box that is periodic in three directions, and neither virtual atoms nor a kspace style.
// The heat flux is exact of models that neither pass messages nor have electrostatics; of others there is a warning.
#pragma once

#include "pair.h"

#include <functional>
#include <memory>

namespace dpsim {
struct Response;
}

namespace LAMMPS_NS {

class PairDPSim : public Pair {
 public:
  PairDPSim(class LAMMPS *);
  ~PairDPSim() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void compute(int, int) override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

  void *extract(const char *, int &) override;
  double memory_usage() override;

 protected:
  struct Impl;
  std::unique_ptr<Impl> impl;

  void allocate();
  void warn_about_masses();
  void warn_about_modifications();
  void warn_about_spin_integrator();
  void warn_about_heat_flux();
  void add(const dpsim::Response &response);
  void alone_if_it_fails(const std::function<void()> &action);
  void write_deviation(const dpsim::Response &first);
  void add_magnetic(const double *virtual_forces);
};

}    // namespace LAMMPS_NS
