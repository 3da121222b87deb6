#include "pair/model_deviation.h"

#include "system/deviation.h"
#include "pair/lammps_model.h"
#include "model/model_graph.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "universe.h"
#include "update.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <unistd.h>
#include <utility>

using namespace LAMMPS_NS;

namespace {

std::string column(double x)
{
  char text[32];
  snprintf(text, sizeof text, " %18.10e", x);
  return text;
}

std::string right(const std::string &text, std::size_t width)
{
  return std::string(width - std::min(width, text.size()), ' ') + text;
}

std::vector<std::vector<double>> at_centers(const std::vector<std::vector<double>> &all, const std::vector<int> &centers)
{
  std::vector<std::vector<double>> out(all.size());
  for (std::size_t m = 0; m < all.size(); ++m)
    for (const int i : centers)
      out[m].insert(out[m].end(), all[m].begin() + 3 * static_cast<std::ptrdiff_t>(i),
                    all[m].begin() + 3 * static_cast<std::ptrdiff_t>(i) + 3);
  return out;
}

}    // namespace

ModelDeviation::ModelDeviation(LAMMPS *lmp, std::string who, std::function<void()> reverse) :
    Pointers(lmp), who_(std::move(who)), reverse_(std::move(reverse))
{
}

ModelDeviation::~ModelDeviation()
{
  if (file_) fclose(file_);
}

void ModelDeviation::choose(const dpsim::DeviationKeywords &keywords, int n_models, bool magnetic)
{
  if (file_) fclose(file_);
  file_ = nullptr;
  keywords_ = keywords;
  if (universe->nworlds > 1) keywords_.file += "." + std::to_string(universe->iworld);    // as LAMMPS names its logs
  n_models_ = n_models;
  magnetic_ = magnetic;
  forces_.assign(n_models, {});
  turning_.assign(magnetic ? n_models : 0, {});
  virials_.assign(n_models, std::vector<double>(9));
}

void ModelDeviation::init()
{
  step_ = -1;
  if (n_models_ < 2 || keywords_.every == 0) return;
  if (keywords_.atomic && !atom->tag_enable)
    error->all(FLERR, "{}: \"atomic\" writes the atoms by their ids, but this input has none; leave out \"atom_modify "
               "id no\"", who_);
  int trouble = 0;
  if (comm->me == 0 && !file_) {
    file_ = fopen(keywords_.file.c_str(), "w");
    trouble = file_ ? 0 : errno;
    if (file_) fputs(header().c_str(), file_);
  }
  MPI_Bcast(&trouble, 1, MPI_INT, 0, world);
  if (trouble != 0)
    error->all(FLERR, "{}: out_file {} cannot be written ({}); choose another place", who_, keywords_.file,
               strerror(trouble));
}

bool ModelDeviation::is_due() const
{
  return n_models_ > 1 && keywords_.every > 0 && update->ntimestep % keywords_.every == 0;
}

std::string ModelDeviation::header() const
{
  std::string out = "#" + right("step", 11);
  const std::string force = magnetic_ ? "fr" : "f";
  std::vector<std::string> names = {"v", force};
  if (magnetic_) names.emplace_back("fm");
  for (const auto &name : names)
    for (const char *what : {"max", "min", "avg"}) out += right(std::string(what) + "_devi_" + name, 19);
  if (keywords_.atomic) out += right("atm_devi_f(N)", 19);
  return out + "\n";
}

void ModelDeviation::take(int k, const dpsim::Response &r, const LammpsModel &model)
{
  const int nall = atom->nlocal + atom->nghost;
  const auto units = model.units();
  auto &forces = forces_[k];
  forces.assign(r.forces, r.forces + 3 * static_cast<std::ptrdiff_t>(nall));
  for (double &f : forces) f *= units.force();
  for (int c = 0; c < 9; ++c) virials_[k][c] = units.energy * r.virial[c];
  if (!magnetic_) return;
  turning_[k].resize(forces.size());
  for (int i = 0; i < nall; ++i)
    for (int c = 0; c < 3; ++c)
      turning_[k][3 * i + c] = model.virtual_scale(k, atom->type[i]) * r.virtual_forces[3 * i + c];
}

void ModelDeviation::write(const LammpsModel &model)
{
  reverse_();
  const auto &centers = model.centers();
  bigint mine = static_cast<bigint>(centers.size()), n_atoms = 0;
  MPI_Allreduce(&mine, &n_atoms, 1, MPI_LMP_BIGINT, MPI_SUM, world);
  for (auto &virial : virials_) {
    std::vector<double> total(9);
    MPI_Allreduce(virial.data(), total.data(), 9, MPI_DOUBLE, MPI_SUM, world);
    for (int c = 0; c < 9; ++c) virial[c] = n_atoms ? total[c] / static_cast<double>(n_atoms) : 0.0;
  }
  const auto forces = dpsim::vector_deviations(at_centers(forces_, centers), centers.size(), keywords_.relative);
  std::vector<dpsim::Spread> columns = {dpsim::tensor_deviation(virials_, keywords_.relative_v), spread(forces)};
  if (magnetic_)
    columns.push_back(
        spread(dpsim::vector_deviations(at_centers(turning_, centers), centers.size(), keywords_.relative)));
  std::string line = right(std::to_string(update->ntimestep), 12);
  for (const auto &c : columns) line += column(c.most) + column(c.least) + column(c.mean);
  if (keywords_.atomic) append_atoms(line, centers, forces);
  if (comm->me != 0) return;
  begin_line();
  fputs((line + "\n").c_str(), file_);
  if (fflush(file_) != 0)
    error->one(FLERR, "{}: out_file {} cannot be written ({})", who_, keywords_.file, strerror(errno));
}

// What is there of a trial position of the same step is taken back.
void ModelDeviation::begin_line()
{
  const bool again = step_ == update->ntimestep && fseek(file_, line_start_, SEEK_SET) == 0 &&
      ftruncate(fileno(file_), line_start_) == 0;
  if (!again) line_start_ = ftell(file_);
  step_ = update->ntimestep;
}

// Over all ranks, some of which may have no atoms.
dpsim::Spread ModelDeviation::spread(const std::vector<double> &mine) const
{
  constexpr double INFINITE = std::numeric_limits<double>::infinity();
  double extremes[2] = {-INFINITE, -INFINITE}, sums[2] = {0.0, static_cast<double>(mine.size())}, most[2], total[2];
  for (const double x : mine) {
    extremes[0] = std::max(extremes[0], x);
    extremes[1] = std::max(extremes[1], -x);
    sums[0] += x;
  }
  MPI_Allreduce(extremes, most, 2, MPI_DOUBLE, MPI_MAX, world);
  MPI_Allreduce(sums, total, 2, MPI_DOUBLE, MPI_SUM, world);
  return total[1] > 0.0 ? dpsim::Spread{most[0], -most[1], total[0] / total[1]} : dpsim::Spread{};
}

// Pairs of id and deviation travel as doubles, which hold every id exactly.
void ModelDeviation::append_atoms(std::string &line, const std::vector<int> &centers,
                                  const std::vector<double> &mine) const
{
  std::vector<double> sent(2 * static_cast<std::size_t>(atom->nlocal), 0.0);
  for (int i = 0; i < atom->nlocal; ++i) sent[2 * i] = static_cast<double>(atom->tag[i]);
  for (std::size_t k = 0; k < centers.size(); ++k) sent[2 * centers[k] + 1] = mine[k];
  int size = static_cast<int>(sent.size());
  std::vector<int> sizes(comm->nprocs), first(comm->nprocs, 0);
  MPI_Gather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, 0, world);
  for (int r = 1; r < comm->nprocs; ++r) first[r] = first[r - 1] + sizes[r - 1];
  std::vector<double> all(comm->me == 0 ? first.back() + sizes.back() : 0);
  MPI_Gatherv(sent.data(), size, MPI_DOUBLE, all.data(), sizes.data(), first.data(), MPI_DOUBLE, 0, world);
  std::vector<std::pair<double, double>> by_id;
  for (std::size_t k = 0; k < all.size(); k += 2) by_id.emplace_back(all[k], all[k + 1]);
  std::sort(by_id.begin(), by_id.end());
  for (const auto &[id, deviation] : by_id) line += column(deviation);
}

// All numbers that an atom has, model by model.
std::vector<std::vector<double> *> ModelDeviation::in_order()
{
  std::vector<std::vector<double> *> out;
  for (auto *kind : {&forces_, &turning_})
    for (auto &values : *kind) out.push_back(&values);
  return out;
}

int ModelDeviation::pack(int n, int first, double *buffer)
{
  double *next = buffer;
  for (int i = first; i < first + n; ++i)
    for (const auto *values : in_order()) next = std::copy_n(values->begin() + 3 * static_cast<std::ptrdiff_t>(i), 3, next);
  return static_cast<int>(next - buffer);
}

void ModelDeviation::unpack(int n, const int *atoms, const double *buffer)
{
  for (int k = 0; k < n; ++k)
    for (auto *values : in_order())
      for (int c = 0; c < 3; ++c) (*values)[3 * static_cast<std::size_t>(atoms[k]) + c] += *buffer++;
}

double ModelDeviation::memory_usage() const
{
  double bytes = 0.0;
  for (const auto *kind : {&forces_, &turning_})
    for (const auto &values : *kind) bytes += static_cast<double>(values.capacity() * sizeof(double));
  return bytes;
}
