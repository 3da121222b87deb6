#include "pair/pair_dpsim.h"

#include "pair/element_masses.h"
#include "pair/lammps_model.h"
#include "pair/model_deviation.h"
#include "model/model_graph.h"
#include "model/model_info.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "exceptions.h"
#include "force.h"
#include "memory.h"
#include "modify.h"
#include "neigh_list.h"
#include "neighbor.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <numbers>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace LAMMPS_NS;

namespace {

constexpr const char *WHO = "pair_style dpsim";

// Largest relative difference between the mass of a LAMMPS type and that of its element.
constexpr double MASS_TOLERANCE = 0.02;

constexpr int VOIGT[6][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {1, 2}};
constexpr int CENTROID[9][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {1, 2}, {1, 0}, {2, 0}, {2, 1}};

}    // namespace

struct PairDPSim::Impl {
  Impl(LAMMPS *lmp, std::function<void()> forward, std::function<void()> reverse) :
      model(lmp, WHO, std::move(forward)), deviation(lmp, WHO, std::move(reverse))
  {
  }

  LammpsModel model;
  ModelDeviation deviation;
  bool loaded = false;
  double scale = 1.0;    // of energy and forces, for fix adapt
  bool masses_checked = false;
  bool flux_checked = false;    // in this run
  double halo_bytes = 0.0;
};

PairDPSim::PairDPSim(LAMMPS *lmp) :
    Pair(lmp),
    impl(std::make_unique<Impl>(lmp, [this] { comm->forward_comm(this); }, [this] { comm->reverse_comm(this); }))
{
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_AVAIL;
}

PairDPSim::~PairDPSim()
{
  if (copymode || !allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

void PairDPSim::allocate()
{
  allocated = 1;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  for (int i = 1; i < n; ++i)
    for (int j = 1; j < n; ++j) setflag[i][j] = 0;
  map = new int[n];
}

void PairDPSim::settings(int narg, char **arg)
{
  std::vector<std::string> models, keywords;
  for (int k = 0; k < narg; ++k) {
    const std::string word = arg[k];
    (keywords.empty() && !dpsim::is_keyword(word) ? models : keywords).push_back(word);
  }
  if (models.empty()) error->all(FLERR, "pair_style dpsim needs a model file: pair_style dpsim model.pt2");
  impl->model.load(models, keywords);
  const auto &info = impl->model.info();
  if (info.output != "energy")
    error->all(FLERR, "pair_style dpsim: model file {} predicts no energy but {}; give a potential, or use "
               "\"compute ID group dpsim/tensor/atom {} ...\"", models[0], info.output, models[0]);
  impl->loaded = true;
  impl->scale = 1.0;
  impl->deviation.choose(impl->model.keywords().deviation, impl->model.size(), info.has_spin());
  comm_forward = impl->model.comm_size();
  comm_reverse = impl->deviation.comm_size();
  for (int i = 1; allocated && i <= atom->ntypes; ++i)    // the elements of an earlier model are not those of this one
    for (int j = 1; j <= atom->ntypes; ++j) setflag[i][j] = 0;
}

void PairDPSim::coeff(int narg, char **arg)
{
  if (narg != 2 + atom->ntypes || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of pair_style dpsim needs \"* *\" and one element for each of the {} atom types, "
               "for example: pair_coeff * * O H", atom->ntypes);
  if (!allocated) allocate();
  impl->model.map_types("pair_coeff", arg + 2, force->pair != this);
  impl->masses_checked = false;
  map_element2type(narg - 2, arg + 2);
}

void PairDPSim::warn_about_masses()
{
  if (impl->masses_checked || !atom->mass || comm->me != 0) return;
  impl->masses_checked = true;
  for (int t = 1; t <= atom->ntypes; ++t) {
    if (impl->model.model_type(t) < 0 || !atom->mass_setflag[t]) continue;
    const auto &name = impl->model.info().type_map[impl->model.model_type(t)];
    const double expected = impl->model.units().mass * dpsim::element_mass(name);
    if (expected > 0.0 && std::fabs(atom->mass[t] - expected) > MASS_TOLERANCE * expected)
      error->warning(FLERR, "pair_style dpsim: atom type {} is mapped to {} but has mass {}, expected about {}; check "
                     "the order of elements in pair_coeff", t, name, atom->mass[t], expected);
  }
}

// LAMMPS takes these settings for any style; under hybrid they may be meant for another one.
void PairDPSim::warn_about_modifications()
{
  if (comm->me == 0 && force->pair == this && (offset_flag || tail_flag))
    error->warning(FLERR, "pair_style dpsim: \"pair_modify {} yes\" has no effect on a model",
                   offset_flag ? "shift" : "tail");
}

// LAMMPS's integrator of spins asks its own spin styles for magnetic forces, one atom at a time.
void PairDPSim::warn_about_spin_integrator()
{
  if (!impl->model.info().has_spin() || comm->me != 0 || modify->get_fix_by_style("^nve/spin$").empty()) return;
  error->warning(FLERR, "pair_style dpsim: fix nve/spin turns spins by the forces of pair styles spin/* alone, those "
                 "of this model move atoms only; \"min_style spin\" and integrators that read fm use both");
}

// A term of the virial belongs to the end of its edge. For the flux it had to belong to the atom whose energy changes,
// which is another one where energies depend on more than neighbors.
void PairDPSim::warn_about_heat_flux()
{
  const auto &info = impl->model.info();
  if (impl->flux_checked || !cvflag_atom || comm->me != 0) return;
  impl->flux_checked = true;
  if (info.message_passing_layers > 0 || info.has_electrostatics())
    error->warning(FLERR, "pair_style dpsim: centroid virials of {}, a model that passes messages or has "
                   "electrostatics, sum to the right pressure but do not give the exact heat flux; take a model "
                   "without these for \"compute heat/flux\"", impl->model.path());
}

void PairDPSim::init_style()
{
  if (!impl->loaded) error->all(FLERR, "pair_style dpsim has no model");
  if (!force->newton_pair)
    error->all(FLERR, "pair_style dpsim needs \"newton on\", the input has newton off for pairs; write \"newton on\" "
               "before the box is defined (or leave the command out)");
  impl->model.init();
  impl->deviation.init();
  impl->flux_checked = false;
  warn_about_masses();
  warn_about_modifications();
  warn_about_spin_integrator();
  neighbor->add_request(this, NeighConst::REQ_FULL);
}

double PairDPSim::init_one(int i, int j)
{
  if (setflag[i][j] == 0) error->all(FLERR, "pair_coeff of pair_style dpsim is missing for types {} and {}", i, j);
  return impl->model.neighbor_cutoff();
}

int PairDPSim::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  return impl->model.pack(n, atoms, buffer);
}

void PairDPSim::unpack_forward_comm(int n, int first, double *buffer) { impl->model.unpack(n, first, buffer); }

int PairDPSim::pack_reverse_comm(int n, int first, double *buffer) { return impl->deviation.pack(n, first, buffer); }

void PairDPSim::unpack_reverse_comm(int n, int *atoms, double *buffer) { impl->deviation.unpack(n, atoms, buffer); }

void PairDPSim::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  warn_about_heat_flux();
  const bool due = impl->deviation.is_due();
  const dpsim::Want want{vflag_global != 0 || due, eflag_atom != 0, vflag_atom || cvflag_atom};
  alone_if_it_fails([&] { impl->model.evaluate(list, want); });
  const auto response = impl->model.gather();
  add(response);
  if (due) write_deviation(response);
}

// What a rank finds wrong in an evaluation, others need not notice.
void PairDPSim::alone_if_it_fails(const std::function<void()> &action)
{
  try {
    action();
  } catch (const LAMMPSException &) {    // from a compute that gives parameters; all ranks stop already
    throw;
  } catch (const std::exception &e) {
    error->one(FLERR, std::string("pair_style dpsim: ") + e.what());
  }
}

void PairDPSim::write_deviation(const dpsim::Response &first)
{
  impl->deviation.take(0, first, impl->model);
  for (int k = 1; k < impl->model.size(); ++k) {
    alone_if_it_fails([&] { impl->model.evaluate_other(k, {true, false, false}); });
    impl->deviation.take(k, impl->model.gather(), impl->model);
  }
  impl->deviation.write(impl->model);
}

void PairDPSim::add(const dpsim::Response &r)
{
  const double unit = impl->scale * impl->model.units().energy, force_unit = impl->scale * impl->model.units().force();
  const int nall = atom->nlocal + atom->nghost;
  for (int i = 0; i < nall; ++i)
    for (int k = 0; k < 3; ++k) atom->f[i][k] += force_unit * r.forces[3 * i + k];
  if (r.virtual_forces) add_magnetic(r.virtual_forces);
  if (eflag_global) eng_vdwl += unit * r.energy;
  const auto &centers = impl->model.centers();
  if (eflag_atom)
    for (std::size_t k = 0; k < centers.size(); ++k) eatom[centers[k]] += unit * r.atomic_values[k];
  if (vflag_global)
    for (int k = 0; k < 6; ++k) virial[k] += unit * r.virial[3 * VOIGT[k][0] + VOIGT[k][1]];
  for (int i = 0; i < nall && (vflag_atom || cvflag_atom); ++i) {
    const double *w = r.atom_virial + 9 * static_cast<std::size_t>(i);    // w[k][l] = force_k * distance_l
    for (int k = 0; k < 6 && vflag_atom; ++k)
      vatom[i][k] += 0.5 * unit * (w[3 * VOIGT[k][0] + VOIGT[k][1]] + w[3 * VOIGT[k][1] + VOIGT[k][0]]);
    for (int k = 0; k < 9 && cvflag_atom; ++k)    // LAMMPS: distance_a * force_b
      cvatom[i][k] += unit * w[3 * CENTROID[k][1] + CENTROID[k][0]];
  }
}

// In LAMMPS fm is the frequency of precession, in rad/ps: fm = -dE/de / hbar, e being the direction of the
// spin s = |s| e, so |s| / hbar times the magnetic force -dE/ds. Ghosts' parts go to their owners with f.
void PairDPSim::add_magnetic(const double *virtual_forces)
{
  const double hbar = force->hplanck / (2.0 * std::numbers::pi);
  for (int i = 0; i < atom->nlocal + atom->nghost; ++i) {
    const double lever = impl->model.virtual_scale(0, atom->type[i]);
    if (lever == 0.0) continue;
    const double factor = impl->scale * lever * atom->sp[i][3] / hbar;
    for (int k = 0; k < 3; ++k) atom->fm[i][k] += factor * virtual_forces[3 * i + k];
  }
}

void *PairDPSim::extract(const char *name, int &dim)
{
  dim = 0;
  if (strcmp(name, "scale") == 0) return &impl->scale;
  if (strcmp(name, "halo_bytes") != 0) return nullptr;
  impl->halo_bytes = impl->model.halo_bytes();
  return &impl->halo_bytes;
}

double PairDPSim::memory_usage()
{
  return Pair::memory_usage() + impl->model.memory_usage() + impl->deviation.memory_usage();
}
