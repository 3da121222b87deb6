// pair_style dpsim: a frozen dpsim model as a LAMMPS pair style.
#pragma once

#include "pair.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

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
  void load_model(const std::string &path, const std::string &device);
  void check_program();
  void check_units();
  void check_special_bonds();
  void warn_about_masses();
  void warn_about_exclusions();

  bool list_is_new();
  void renew();
  std::vector<int> number_rows(std::vector<std::int64_t> &row) const;
  void link_ghosts(std::vector<std::int64_t> &row, std::int64_t owned);
  void count_ghosts(std::vector<std::int64_t> &row, std::int64_t owned) const;
  void step();

  // Runs `action` on every rank; if it throws on any, all ranks stop with the message of the lowest.
  template <typename F> void all_or_none(F action);
};

}    // namespace LAMMPS_NS
