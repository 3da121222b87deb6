#include "pair_dpsim.h"

#include "element_masses.h"
#include "lammps_model.h"
#include "model_graph.h"
#include "model_info.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "modify.h"
#include "neigh_list.h"
#include "neighbor.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <numbers>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace LAMMPS_NS;

namespace {

// Keywords of the interface whose feature this version lacks, with the feature.
const std::map<std::string, std::string> NOT_YET = {
    {"out_file", "model deviation"}, {"out_freq", "model deviation"},   {"atomic", "model deviation"},
    {"relative", "model deviation"}, {"relative_v", "model deviation"},
};

// Largest relative difference between the mass of a LAMMPS type and that of its element.
constexpr double MASS_TOLERANCE = 0.02;

constexpr int VOIGT[6][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {1, 2}};
constexpr int CENTROID[9][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {1, 2}, {1, 0}, {2, 0}, {2, 1}};

}    // namespace

struct PairDPSim::Impl {
  Impl(LAMMPS *lmp, std::function<void()> forward) : model(lmp, "pair_style dpsim", std::move(forward)) {}

  LammpsModel model;
  bool loaded = false;
  double energy_unit = 1.0;    // LAMMPS's unit of energy in eV^-1
  bool masses_checked = false;
  double halo_bytes = 0.0;
};

PairDPSim::PairDPSim(LAMMPS *lmp) : Pair(lmp), impl(std::make_unique<Impl>(lmp, [this] { comm->forward_comm(this); }))
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
    if (const auto lacking = NOT_YET.find(word); lacking != NOT_YET.end())
      error->all(FLERR, "pair_style dpsim: keyword {} ({}) is not available in this version; leave it out", word,
                 lacking->second);
    (keywords.empty() && !dpsim::is_keyword(word) ? models : keywords).push_back(word);
  }
  if (models.empty()) error->all(FLERR, "pair_style dpsim needs a model file: pair_style dpsim model.pt2");
  if (models.size() > 1)
    error->all(FLERR, "pair_style dpsim: {} model files were given (\"{}\" is the second), this version takes one "
               "(model deviation is not available)", models.size(), models[1]);
  impl->model.load(models[0], keywords);
  const auto &info = impl->model.info();
  if (info.output != "energy")
    error->all(FLERR, "pair_style dpsim: model file {} predicts no energy but {}; give a potential, or use "
               "\"compute ID group dpsim/tensor/atom {} ...\"", models[0], info.output, models[0]);
  impl->loaded = true;
  comm_forward = impl->model.comm_size();
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
  map_element2type(narg - 2, arg + 2);
}

void PairDPSim::warn_about_masses()
{
  if (impl->masses_checked || !atom->mass || comm->me != 0) return;
  impl->masses_checked = true;
  for (int t = 1; t <= atom->ntypes; ++t) {
    if (impl->model.model_type(t) < 0 || !atom->mass_setflag[t]) continue;
    const auto &name = impl->model.info().type_map[impl->model.model_type(t)];
    const double expected = dpsim::element_mass(name);
    if (expected > 0.0 && std::fabs(atom->mass[t] - expected) > MASS_TOLERANCE * expected)
      error->warning(FLERR, "pair_style dpsim: atom type {} is mapped to {} but has mass {}, expected about {}; check "
                     "the order of elements in pair_coeff", t, name, atom->mass[t], expected);
  }
}

// LAMMPS's integrator of spins asks its own spin styles for magnetic forces, one atom at a time.
void PairDPSim::warn_about_spin_integrator()
{
  if (!impl->model.info().has_spin() || comm->me != 0 || modify->get_fix_by_style("^nve/spin$").empty()) return;
  error->warning(FLERR, "pair_style dpsim: fix nve/spin turns spins by the forces of pair styles spin/* alone, those "
                 "of this model move atoms only; \"min_style spin\" and integrators that read fm use both");
}

void PairDPSim::init_style()
{
  if (!impl->loaded) error->all(FLERR, "pair_style dpsim has no model");
  if (!force->newton_pair)
    error->all(FLERR, "pair_style dpsim needs \"newton on\", the input has newton off for pairs; write \"newton on\" "
               "before the box is defined (or leave the command out)");
  impl->energy_unit = impl->model.init();
  warn_about_masses();
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

void PairDPSim::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  try {
    impl->model.evaluate(list, vflag_atom || cvflag_atom);
  } catch (const std::exception &e) {
    error->one(FLERR, std::string("pair_style dpsim: ") + e.what());
  }
  add(impl->model.gather({vflag_global != 0, eflag_atom != 0, vflag_atom || cvflag_atom}));
}

void PairDPSim::add(const dpsim::Response &r)
{
  const double unit = impl->energy_unit;
  const int nall = atom->nlocal + atom->nghost;
  for (int i = 0; i < nall; ++i)
    for (int k = 0; k < 3; ++k) atom->f[i][k] += unit * r.forces[3 * i + k];
  if (r.virtual_forces) add_magnetic(r.virtual_forces);
  if (eflag_global) eng_vdwl += unit * r.energy;
  const auto &centers = impl->model.centers();
  if (eflag_atom)
    for (std::size_t k = 0; k < centers.size(); ++k) eatom[centers[k]] += unit * r.atomic_energy[k];
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
    const int type = impl->model.model_type(atom->type[i]);
    if (type < 0) continue;
    const double factor = impl->model.info().virtual_scale[type] * atom->sp[i][3] / hbar;
    for (int k = 0; k < 3; ++k) atom->fm[i][k] += factor * virtual_forces[3 * i + k];
  }
}

void *PairDPSim::extract(const char *name, int &dim)
{
  dim = 0;
  if (strcmp(name, "halo_bytes") != 0) return nullptr;
  impl->halo_bytes = impl->model.halo_bytes();
  return &impl->halo_bytes;
}

double PairDPSim::memory_usage() { return Pair::memory_usage() + impl->model.memory_usage(); }
