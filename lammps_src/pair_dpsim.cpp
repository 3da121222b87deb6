#include "pair_dpsim.h"

#include "element_masses.h"
#include "exported_model.h"
#include "halo.h"
#include "model_graph.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <stdexcept>

using namespace LAMMPS_NS;

// From libdpsim_ops: freed memory is kept, so that tensors of every step are reused.
extern "C" int dpsim_keep_memory();

namespace {

// What each keyword takes, for the message about an unknown one.
constexpr const char *KEYWORDS = "device auto|cpu|cuda, mpi auto|device|host";

// Keywords of the interface whose feature this version lacks, with the feature.
const std::map<std::string, std::string> NOT_YET = {
    {"out_file", "model deviation"},  {"out_freq", "model deviation"},
    {"atomic", "model deviation"},    {"relative", "model deviation"},
    {"relative_v", "model deviation"}, {"fparam", "frame parameters"},
    {"aparam", "atomic parameters"},
};

bool is_choice(const std::string &value, std::initializer_list<const char *> choices)
{
  return std::any_of(choices.begin(), choices.end(), [&](const char *c) { return value == c; });
}

std::string joined(const std::vector<std::string> &words)
{
  std::string out;
  for (const auto &word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

// Largest relative difference between the mass of a LAMMPS type and that of its element.
constexpr double MASS_TOLERANCE = 0.02;

constexpr int VOIGT[6][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {1, 2}};
constexpr int CENTROID[9][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {1, 2}, {1, 0}, {2, 0}, {2, 1}};

}    // namespace

struct PairDPSim::Impl {
  explicit Impl(MPI_Comm comm) : halo(comm) {}

  std::unique_ptr<dpsim::ExportedModel> model;
  std::unique_ptr<dpsim::ModelGraph> graph;
  dpsim::Halo halo;
  dpsim::HaloRoute route = dpsim::HaloRoute::automatic;

  std::vector<int> model_type;         // by LAMMPS type; -1: not part of the model
  double energy_unit = 1.0;            // LAMMPS's unit of energy in eV^-1
  bool masses_checked = false;

  std::vector<int> centers;            // atoms that are centres, in the order of feature rows
  std::vector<double> owner;           // (nall,2) rank and row of each atom's owner
  bigint builds = -1;                  // neighbour lists seen, by LAMMPS's count
  const NeighList *built_list = nullptr;
  int built_local = -1, built_ghost = -1;
  double halo_bytes = 0.0;             // sent by this rank in the last step

  bool passes_messages() const { return model->info().message_passing_layers > 0; }
};

PairDPSim::PairDPSim(LAMMPS *lmp) : Pair(lmp), impl(std::make_unique<Impl>(world))
{
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_AVAIL;
  comm_forward = 2;
  check_program();
  dpsim_keep_memory();
  dpsim::set_threads(comm->nthreads);
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

template <typename F> void PairDPSim::all_or_none(F action)
{
  std::string message;
  try {
    action();
  } catch (const std::exception &e) {
    message = e.what();
    if (message.empty()) message = "unknown error";
  }
  int first = message.empty() ? comm->nprocs : comm->me, lowest;
  MPI_Allreduce(&first, &lowest, 1, MPI_INT, MPI_MIN, world);
  if (lowest == comm->nprocs) return;
  int size = static_cast<int>(message.size());
  MPI_Bcast(&size, 1, MPI_INT, lowest, world);
  message.resize(size);
  MPI_Bcast(message.data(), size, MPI_CHAR, lowest, world);
  error->all(FLERR, "pair_style dpsim: " + message);
}

// The plugin's idea of LAMMPS's classes holds only for the version and sizes it was compiled for.
void PairDPSim::check_program()
{
  if (lmp->num_ver != DPSIM_LAMMPS_VERSION)
    error->all(FLERR, "pair_style dpsim was built for LAMMPS version {}, this is {}; run \"dpsim lammps build --force\"",
               DPSIM_LAMMPS_VERSION, lmp->num_ver);
  using Setting = int (*)(void *, const char *);
  const auto setting = reinterpret_cast<Setting>(dlsym(RTLD_DEFAULT, "lammps_extract_setting"));
  if (!setting) return;
  const int found = setting(nullptr, "tagint"), built = sizeof(tagint);
  if (found != built)
    error->all(FLERR, "pair_style dpsim was built for atom ids of {} bytes, this LAMMPS has {}; build it with "
               "\"dpsim lammps build --lammps-source DIR\" for this LAMMPS", built, found);
}

void PairDPSim::settings(int narg, char **arg)
{
  std::vector<std::string> models;
  std::string device = "auto", route = "auto";
  int k = 0;
  for (; k < narg && !is_choice(arg[k], {"device", "mpi"}) && !NOT_YET.count(arg[k]); ++k)
    models.emplace_back(arg[k]);
  if (models.empty()) error->all(FLERR, "pair_style dpsim needs a model file: pair_style dpsim model.pt2");
  for (; k < narg; k += 2) {
    const std::string key = arg[k];
    if (const auto lacking = NOT_YET.find(key); lacking != NOT_YET.end())
      error->all(FLERR, "pair_style dpsim: keyword {} ({}) is not available in this version; leave it out", key,
                 lacking->second);
    if (!is_choice(key, {"device", "mpi"}))
      error->all(FLERR, "pair_style dpsim: unknown keyword {}, expected one of: {}", key, KEYWORDS);
    if (k + 1 == narg) error->all(FLERR, "pair_style dpsim: keyword {} has no value, expected: {}", key, KEYWORDS);
    const std::string value = arg[k + 1];
    const bool known = key == "device" ? is_choice(value, {"auto", "cpu", "cuda"})
                                       : is_choice(value, {"auto", "device", "host"});
    if (!known) error->all(FLERR, "pair_style dpsim: \"{} {}\" is not a choice, expected: {}", key, value, KEYWORDS);
    (key == "device" ? device : route) = value;
  }
  if (models.size() > 1)
    error->all(FLERR, "pair_style dpsim: {} model files were given (\"{}\" is the second), this version takes one "
               "(model deviation is not available)", models.size(), models[1]);
  impl->route = route == "device" ? dpsim::HaloRoute::device
      : route == "host"           ? dpsim::HaloRoute::host
                                  : dpsim::HaloRoute::automatic;
  load_model(models[0], device);
}

void PairDPSim::load_model(const std::string &path, const std::string &device)
{
  MPI_Comm node;
  int local_rank;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, comm->me, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &local_rank);
  MPI_Comm_free(&node);
  all_or_none([&] { impl->model = std::make_unique<dpsim::ExportedModel>(path, device, local_rank); });
  const auto &info = impl->model->info();
  all_or_none([&] {
    if (std::find(info.outputs.begin(), info.outputs.end(), "energy") == info.outputs.end())
      throw std::runtime_error("model file " + path + " predicts no energy; give a potential");
    if (info.n_fparam || info.n_aparam)
      throw std::runtime_error("model file " + path + " needs frame or atomic parameters, which this version does "
                               "not pass on; use a model without them");
  });
  impl->graph = dpsim::ModelGraph::make(info.rule, impl->model->device());
  std::string halo;
  all_or_none([&] { halo = impl->halo.choose_route(impl->route, impl->model->device()); });
  if (comm->me == 0)
    utils::logmesg(lmp, "dpsim model {}: {}, {} elements, cutoff {} A, {} message-passing layers, digest {}\n"
                   "  on {}, feature rows between ranks through {}\n",
                   path, info.dtype, info.type_map.size(), info.rule.cutoff, info.message_passing_layers,
                   info.digest, impl->model->device(), halo);
}

void PairDPSim::coeff(int narg, char **arg)
{
  if (narg != 2 + atom->ntypes || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of pair_style dpsim needs \"* *\" and one element for each of the {} atom types, "
               "for example: pair_coeff * * O H", atom->ntypes);
  if (!allocated) allocate();
  const auto &names = impl->model->info().type_map;
  impl->model_type.assign(atom->ntypes + 1, -1);
  for (int t = 1; t <= atom->ntypes; ++t) {
    const std::string name = arg[t + 1];
    if (name == "NULL") {
      if (force->pair == this)
        error->all(FLERR, "pair_coeff: NULL (for atom type {}) is only possible when pair_style dpsim is part of a "
                   "hybrid style; name an element", t);
      continue;
    }
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end())
      error->all(FLERR, "pair_coeff: element {} (for atom type {}) is not in the model, which knows {}", name, t,
                 joined(names));
    impl->model_type[t] = static_cast<int>(found - names.begin());
  }
  map_element2type(narg - 2, arg + 2);
}

void PairDPSim::check_units()
{
  const std::string style = update->unit_style;
  if (style == "metal")
    impl->energy_unit = 1.0;
  else if (style == "real")
    impl->energy_unit = utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
  else
    error->all(FLERR, "pair_style dpsim works in \"units metal\" or \"units real\", the input has \"units {}\"; write "
               "\"units metal\" at its top and give lengths in Angstrom", style);
}

// Pairs whose special factors are both zero are missing in the neighbour list.
void PairDPSim::check_special_bonds()
{
  if (atom->molecular == Atom::ATOMIC) return;
  for (int k = 1; k < 4; ++k)
    if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0)
      error->all(FLERR, "pair_style dpsim needs all pairs of atoms, but special_bonds removes 1-{} neighbors; write "
                 "\"special_bonds lj/coul 1.0 1.0 1.0\" (or tiny factors such as 1.0e-50 under hybrid)", k + 1);
}

void PairDPSim::warn_about_masses()
{
  if (impl->masses_checked || !atom->mass || comm->me != 0) return;
  impl->masses_checked = true;
  for (int t = 1; t <= atom->ntypes; ++t) {
    if (impl->model_type[t] < 0 || !atom->mass_setflag[t]) continue;
    const auto &name = impl->model->info().type_map[impl->model_type[t]];
    const double expected = dpsim::element_mass(name);
    if (expected > 0.0 && std::fabs(atom->mass[t] - expected) > MASS_TOLERANCE * expected)
      error->warning(FLERR, "pair_style dpsim: atom type {} is mapped to {} but has mass {}, expected about {}; check "
                     "the order of elements in pair_coeff", t, name, atom->mass[t], expected);
  }
}

void PairDPSim::warn_about_exclusions()
{
  if (neighbor->nex_type + neighbor->nex_group + neighbor->nex_mol > 0 && comm->me == 0)
    error->warning(FLERR, "pair_style dpsim: neigh_modify exclude removes pairs that the model was trained with");
}

void PairDPSim::init_style()
{
  if (!impl->model) error->all(FLERR, "pair_style dpsim has no model");
  if (!force->newton_pair)
    error->all(FLERR, "pair_style dpsim needs \"newton on\", the input has newton off for pairs; write \"newton on\" "
               "before the box is defined (or leave the command out)");
  check_units();
  check_special_bonds();
  warn_about_masses();
  warn_about_exclusions();
  dpsim::set_threads(comm->nthreads);
  neighbor->add_request(this, NeighConst::REQ_FULL);
  impl->builds = -1;
}

double PairDPSim::init_one(int i, int j)
{
  if (setflag[i][j] == 0) error->all(FLERR, "pair_coeff of pair_style dpsim is missing for types {} and {}", i, j);
  return impl->model->info().rule.cutoff;
}

int PairDPSim::pack_forward_comm(int n, int *list, double *buf, int, int *)
{
  for (int k = 0; k < n; ++k) {
    buf[2 * k] = impl->owner[2 * list[k]];
    buf[2 * k + 1] = impl->owner[2 * list[k] + 1];
  }
  return 2 * n;
}

void PairDPSim::unpack_forward_comm(int n, int first, double *buf)
{
  std::copy(buf, buf + 2 * n, impl->owner.begin() + 2 * first);
}

// Making the plan is collective, so all ranks decide as one, even if only one sees a reason.
bool PairDPSim::list_is_new()
{
  int mine = neighbor->ago == 0 || impl->builds != neighbor->ncalls || impl->built_list != list ||
      impl->built_local != atom->nlocal || impl->built_ghost != atom->nghost;
  int any = mine;
  if (comm->nprocs > 1 && impl->passes_messages()) MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, world);
  impl->builds = neighbor->ncalls;
  impl->built_list = list;
  impl->built_local = atom->nlocal;
  impl->built_ghost = atom->nghost;
  return any != 0;
}

// Owned rows follow LAMMPS's list, which under hybrid holds this style's atoms only.
std::vector<int> PairDPSim::number_rows(std::vector<std::int64_t> &row) const
{
  std::vector<int> centers;
  for (int k = 0; k < list->inum; ++k) {
    const int i = list->ilist[k];
    if (impl->model_type[atom->type[i]] < 0) continue;
    row[i] = static_cast<std::int64_t>(centers.size());
    centers.push_back(i);
  }
  return centers;
}

// Each ghost learns the rank and row of its owner; images of one atom then share one feature row.
void PairDPSim::link_ghosts(std::vector<std::int64_t> &row, std::int64_t owned)
{
  const int nlocal = atom->nlocal, nall = nlocal + atom->nghost;
  impl->owner.assign(2 * static_cast<std::size_t>(nall), -1.0);
  for (int i = 0; i < nlocal; ++i) {
    impl->owner[2 * i] = comm->me;
    impl->owner[2 * i + 1] = static_cast<double>(row[i]);
  }
  comm->forward_comm(this);
  std::vector<int> owner_rank(atom->nghost);
  std::vector<std::int64_t> owner_row(atom->nghost), slot;
  for (int g = 0; g < atom->nghost; ++g) {
    owner_rank[g] = static_cast<int>(impl->owner[2 * (nlocal + g)]);
    owner_row[g] = static_cast<std::int64_t>(impl->owner[2 * (nlocal + g) + 1]);
  }
  impl->halo.plan(owned, owner_rank, owner_row, slot);
  std::copy(slot.begin(), slot.end(), row.begin() + nlocal);
}

// Without messages only the type of a ghost matters, and that needs no communication.
void PairDPSim::count_ghosts(std::vector<std::int64_t> &row, std::int64_t owned) const
{
  for (int i = atom->nlocal; i < atom->nlocal + atom->nghost; ++i)
    if (impl->model_type[atom->type[i]] >= 0) row[i] = owned++;
}

void PairDPSim::renew()
{
  const int nall = atom->nlocal + atom->nghost;
  std::vector<std::int64_t> row(nall, -1), row_types;
  impl->centers = number_rows(row);
  const auto owned = static_cast<std::int64_t>(impl->centers.size());
  if (impl->passes_messages())
    link_ghosts(row, owned);
  else
    count_ghosts(row, owned);
  for (int i = 0; i < nall; ++i) {
    if (row[i] < 0) continue;
    if (row[i] >= static_cast<std::int64_t>(row_types.size())) row_types.resize(row[i] + 1);
    row_types[row[i]] = impl->model_type[atom->type[i]];
  }
  dpsim::PairList pairs;
  pairs.n_centers = owned;
  pairs.centers = impl->centers.data();
  pairs.n_neighbors = list->numneigh;
  pairs.neighbors = list->firstneigh;
  pairs.mask = NEIGHMASK;
  impl->graph->renew(pairs, std::move(row), std::move(row_types));
}

void PairDPSim::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  try {
    step();
  } catch (const std::exception &e) {
    error->one(FLERR, std::string("pair_style dpsim: ") + e.what());
  }
}

// Ranks without atoms take every step as well: the model exchanges rows with its neighbours.
void PairDPSim::step()
{
  if (list_is_new()) renew();
  const auto before = impl->halo.bytes_sent();
  const bool alone = comm->nprocs == 1 || !impl->passes_messages();
  const auto &tensors = impl->graph->update(atom->nlocal + atom->nghost ? atom->x[0] : nullptr);
  const auto &output = impl->model->evaluate(tensors, alone ? 0 : impl->halo.handle());
  impl->halo_bytes = static_cast<double>(impl->halo.bytes_sent() - before);
  const dpsim::Want want{vflag_global != 0, eflag_atom != 0, vflag_atom || cvflag_atom};
  const dpsim::Response &r = impl->graph->gather(output, want);

  const double unit = impl->energy_unit;
  const int nall = atom->nlocal + atom->nghost;
  for (int i = 0; i < nall; ++i)
    for (int k = 0; k < 3; ++k) atom->f[i][k] += unit * r.forces[3 * i + k];
  if (eflag_global) eng_vdwl += unit * r.energy;
  if (eflag_atom)
    for (std::size_t k = 0; k < impl->centers.size(); ++k) eatom[impl->centers[k]] += unit * r.atomic_energy[k];
  if (vflag_global)
    for (int k = 0; k < 6; ++k) virial[k] += unit * r.virial[3 * VOIGT[k][0] + VOIGT[k][1]];
  for (int i = 0; i < nall && want.atom_virial; ++i) {
    const double *w = r.atom_virial + 9 * static_cast<std::size_t>(i);    // w[k][l] = force_k * distance_l
    for (int k = 0; k < 6 && vflag_atom; ++k)
      vatom[i][k] += 0.5 * unit * (w[3 * VOIGT[k][0] + VOIGT[k][1]] + w[3 * VOIGT[k][1] + VOIGT[k][0]]);
    for (int k = 0; k < 9 && cvflag_atom; ++k)    // LAMMPS: distance_a * force_b
      cvatom[i][k] += unit * w[3 * CENTROID[k][1] + CENTROID[k][0]];
  }
}

void *PairDPSim::extract(const char *name, int &dim)
{
  dim = 0;
  if (strcmp(name, "halo_bytes") == 0) return &impl->halo_bytes;
  return nullptr;
}

double PairDPSim::memory_usage()
{
  return Pair::memory_usage() + static_cast<double>(impl->owner.capacity() * sizeof(double) +
                                                    impl->centers.capacity() * sizeof(int));
}
