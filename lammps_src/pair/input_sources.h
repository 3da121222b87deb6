// Extra inputs of a model that LAMMPS computes anew at every step: frame parameters from a compute or a fix, atomic
// parameters from a compute.
#pragma once

#include "pointers.h"

#include <cstdint>
#include <string>
#include <vector>

namespace dpsim {
struct Keywords;
}

namespace LAMMPS_NS {

class InputSources : protected Pointers {
 public:
  // `who` begins every message.
  InputSources(class LAMMPS *lmp, std::string who) : Pointers(lmp), who_(std::move(who)) {}

  // Which they are, and how many numbers the model takes of each kind.
  void choose(const dpsim::Keywords &keywords, std::int64_t n_fparam, std::int64_t n_aparam);

  // At the beginning of each run: finds the computes and fixes; stops the program if they are not there, or give
  // something else.
  void init();

  bool fparam_changes() const { return !fparam_compute_id_.empty() || !fparam_fix_id_.empty(); }
  bool aparam_changes() const { return !aparam_compute_id_.empty(); }

  // As they are now; collective. The values of atoms (centers, n_aparam) come in the order of `centers`.
  const std::vector<double> &fparam();
  const std::vector<double> &aparam(const std::vector<int> &centers);

 private:
  class Compute *find_compute(const std::string &keyword, const std::string &id);
  void check_fparam_compute();
  void check_fparam_fix();
  void check_aparam_compute();
  void set_up();

  std::string who_, fparam_compute_id_, aparam_compute_id_, fparam_fix_id_;
  int fparam_fix_index_ = 0;    // of its vector, from 1; 0: its scalar
  std::int64_t n_fparam_ = 0, n_aparam_ = 0;
  class Compute *fparam_compute_ = nullptr, *aparam_compute_ = nullptr;
  class Fix *fparam_fix_ = nullptr;
  bool fresh_ = false;          // no value has been asked for in this run
  std::vector<double> fparam_, aparam_;
};

}    // namespace LAMMPS_NS
