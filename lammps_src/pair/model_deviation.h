// The deviation of an ensemble along a run: collects the forces of all models at a step, and writes a line of a file.
//
//   step  max_devi_v min_devi_v avg_devi_v  max_devi_f min_devi_f avg_devi_f  [max_devi_fm ...]  [one column an atom]
//
// Virials are divided by the number of atoms. Spin models have the columns fm for magnetic forces (eV per Bohr
// magneton), and their forces are called fr. With "atomic" the deviations of the forces on all atoms follow, by id;
// atoms that no model sees have 0, and do not count elsewhere. Units are those of the input; relative ones have none.
// A step has one line, again where a run begins: where forces are computed more than once, as along the line search of a
// minimization or in Monte Carlo moves, that of the last time, which is where the atoms stay.
// With several partitions each has its own file, and its name ends in the number of the partition: model_devi.out.0.
#pragma once

#include "pair/lammps_units.h"
#include "model/model_inputs.h"

#include "pointers.h"

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace dpsim {
struct Response;
struct Spread;
}

namespace LAMMPS_NS {

class LammpsModel;

class ModelDeviation : protected Pointers {
 public:
  // `who` begins every message. `reverse` makes LAMMPS communicate from ghosts to owners through pack() and unpack().
  ModelDeviation(class LAMMPS *lmp, std::string who, std::function<void()> reverse);
  ~ModelDeviation() override;

  // With each pair_style command; the file is begun anew at the next run.
  void choose(const dpsim::DeviationKeywords &keywords, int n_models, bool magnetic);

  // At the beginning of each run; collective, stops the program if the file cannot be written.
  void init();

  // Whether this step is one to write.
  bool is_due() const;

  // What model k says of this step. Then, of all models, a line; collective.
  void take(int k, const dpsim::Response &response, const LammpsModel &model);
  void write(const LammpsModel &model);

  int comm_size() const { return n_models_ < 2 ? 0 : (magnetic_ ? 6 : 3) * n_models_; }
  int pack(int n, int first, double *buffer);
  void unpack(int n, const int *atoms, const double *buffer);

  double memory_usage() const;

 private:
  std::string header() const;
  void begin_line();
  std::vector<std::vector<double> *> in_order();
  dpsim::Spread spread(const std::vector<double> &mine) const;
  void append_atoms(std::string &line, const std::vector<int> &centers, const std::vector<double> &mine) const;

  std::string who_;
  std::function<void()> reverse_;
  dpsim::DeviationKeywords keywords_;
  int n_models_ = 0;
  bool magnetic_ = false;
  FILE *file_ = nullptr;                                   // on the first rank
  bigint step_ = -1;                                       // of the last line of this run, and where that line begins
  long line_start_ = 0;
  std::vector<std::vector<double>> forces_, turning_;      // by model (n_all,3): of atoms, of spins
  std::vector<std::vector<double>> virials_;               // by model (9)
};

}    // namespace LAMMPS_NS
