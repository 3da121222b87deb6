// pair_style dpsim: a frozen dpsim model as a LAMMPS pair style.
#pragma once

#include "pair.h"

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

  void *extract(const char *, int &) override;
  double memory_usage() override;

 protected:
  struct Impl;
  std::unique_ptr<Impl> impl;

  void allocate();
  void warn_about_masses();
  void warn_about_spin_integrator();
  void add(const dpsim::Response &response);
  void add_magnetic(const double *virtual_forces);
};

}    // namespace LAMMPS_NS
