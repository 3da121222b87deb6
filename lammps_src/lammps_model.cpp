#include "lammps_model.h"

#include "atom_rows.h"
#include "exported_model.h"
#include "halo.h"
#include "model_graph.h"
#include "run_report.h"
#include "spin_system.h"
#include "surroundings.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <dlfcn.h>
#include <stdexcept>
#include <utility>

using namespace LAMMPS_NS;

// From libdpsim_ops: freed memory is kept, so that tensors of every step are reused.
extern "C" int dpsim_keep_memory();

namespace {

// Spins may become this much longer during a run than they were at its beginning.
constexpr double SPIN_GROWTH = 1.1;

std::string joined(const std::vector<std::string> &words)
{
  std::string out;
  for (const auto &word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

}    // namespace

struct LammpsModel::Impl {
  Impl(LAMMPS *lmp, MPI_Comm comm, std::function<void()> forward) : halo(comm), rows(lmp, std::move(forward)) {}

  std::unique_ptr<dpsim::ExportedModel> model;
  std::unique_ptr<dpsim::ModelGraph> graph;
  std::unique_ptr<dpsim::SpinSystem> spin;    // of spin models
  dpsim::Halo halo;
  AtomRows rows;
  const dpsim::ModelOutput *output = nullptr;
  std::vector<double> offsets;                // (n_all,3) Å, of virtual atoms
  double spin_reach = 0.0;                    // Å, longest offset that the neighbour list allows for
  std::vector<double> atom_virial;            // of spin models
  double halo_bytes = 0.0;
  bool verbose = false, reported = false;     // whether each run is described, and whether this one has been
  dpsim::Surroundings around;                 // of models with electrostatics
  std::vector<double> center_positions;       // (N,3) Å likewise

  bool passes_messages() const { return model->info().message_passing_layers > 0; }
};

LammpsModel::LammpsModel(LAMMPS *lmp, std::string name, std::function<void()> forward) :
    Pointers(lmp), impl(std::make_unique<Impl>(lmp, world, std::move(forward))), who(std::move(name))
{
  check_program();
  dpsim_keep_memory();
  dpsim::set_threads(comm->nthreads);
}

LammpsModel::~LammpsModel() = default;

const dpsim::ModelInfo &LammpsModel::info() const { return impl->model->info(); }
const std::string &LammpsModel::path() const { return impl->model->path(); }
int LammpsModel::model_type(int lammps_type) const { return impl->rows.model_type()[lammps_type]; }
const std::vector<int> &LammpsModel::centers() const { return impl->rows.centers(); }
const double *LammpsModel::atomic_values() { return impl->model->atomic_values(); }
int LammpsModel::comm_size() const { return impl->rows.width(); }
double LammpsModel::halo_bytes() const { return impl->halo_bytes; }

void LammpsModel::all_or_none(const std::function<void()> &action)
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
  error->all(FLERR, who + ": " + message);
}

// The plugin's idea of LAMMPS's classes holds only for the version and sizes it was compiled for.
void LammpsModel::check_program()
{
  if (lmp->num_ver != DPSIM_LAMMPS_VERSION)
    error->all(FLERR, "{} was built for LAMMPS version {}, this is {}; run \"dpsim lammps build --force\"", who,
               DPSIM_LAMMPS_VERSION, lmp->num_ver);
  using Setting = int (*)(void *, const char *);
  const auto setting = reinterpret_cast<Setting>(dlsym(RTLD_DEFAULT, "lammps_extract_setting"));
  if (!setting) return;
  const int found = setting(nullptr, "tagint"), built = sizeof(tagint);
  if (found != built)
    error->all(FLERR, "{} was built for atom ids of {} bytes, this LAMMPS has {}; build it with "
               "\"dpsim lammps build --lammps-source DIR\" for this LAMMPS", who, built, found);
}

void LammpsModel::load(const std::string &path, const std::vector<std::string> &words)
{
  MPI_Comm node;
  int local_rank;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, comm->me, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &local_rank);
  MPI_Comm_free(&node);
  dpsim::Keywords keywords;
  all_or_none([&] { keywords = dpsim::parse_keywords(words); });
  all_or_none([&] { impl->model = std::make_unique<dpsim::ExportedModel>(path, keywords.device, local_rank); });
  all_or_none([&] { impl->model->set_inputs(dpsim::choose_inputs(keywords, info())); });
  impl->verbose = keywords.verbose;
  impl->graph = dpsim::ModelGraph::make(info().neighbors, impl->model->device());
  impl->spin = info().has_spin() ? std::make_unique<dpsim::SpinSystem>() : nullptr;
  impl->rows.set_types({}, static_cast<int>(info().type_map.size()), impl->passes_messages(), info().has_spin());
  std::string halo;
  all_or_none([&] { halo = impl->halo.choose_route(dpsim::route_of(keywords.mpi), impl->model->device()); });
  if (comm->me == 0)
    utils::logmesg(lmp, "dpsim model {}: {}, {} elements, cutoff {} A, {} message-passing layers, digest {}\n"
                   "  on {}, feature rows between ranks through {}\n",
                   path, info().dtype, info().type_map.size(), info().neighbors.cutoff,
                   info().message_passing_layers, info().digest, impl->model->device(), halo);
}

void LammpsModel::map_types(const std::string &where, const char *const *words, bool may_be_null)
{
  const auto &names = info().type_map;
  std::vector<int> types(atom->ntypes + 1, -1);
  for (int t = 1; t <= atom->ntypes; ++t) {
    const std::string name = words[t - 1];
    if (name == "NULL") {
      if (!may_be_null)
        error->all(FLERR, "{}: NULL (for atom type {}) is only possible when {} is part of a hybrid style; name an "
                   "element", where, t, who);
      continue;
    }
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end())
      error->all(FLERR, "{}: element {} (for atom type {}) is not in the model, which knows {}", where, name, t,
                 joined(names));
    types[t] = static_cast<int>(found - names.begin());
  }
  impl->rows.set_types(std::move(types), static_cast<int>(names.size()), impl->passes_messages(), info().has_spin());
}

double LammpsModel::init()
{
  const double unit = check_units();
  check_special_bonds();
  warn_about_exclusions();
  if (impl->spin) check_spins();
  if (info().has_electrostatics()) check_periodic();
  dpsim::set_threads(comm->nthreads);
  impl->rows.forget();
  impl->reported = !impl->verbose;
  return unit;
}

double LammpsModel::check_units()
{
  const std::string style = update->unit_style;
  if (style == "metal") return 1.0;
  if (style != "real")
    error->all(FLERR, "{} works in \"units metal\" or \"units real\", the input has \"units {}\"; write \"units "
               "metal\" at its top and give lengths in Angstrom", who, style);
  if (impl->spin)
    error->all(FLERR, "{}: spin models work in \"units metal\", as all of LAMMPS's spin styles do, the input has "
               "\"units real\"; write \"units metal\" at its top", who);
  return utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
}

// Pairs whose special factors are both zero are missing in the neighbour list.
void LammpsModel::check_special_bonds()
{
  if (atom->molecular == Atom::ATOMIC) return;
  for (int k = 1; k < 4; ++k)
    if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0)
      error->all(FLERR, "{} needs all pairs of atoms, but special_bonds removes 1-{} neighbors; write "
                 "\"special_bonds lj/coul 1.0 1.0 1.0\" (or tiny factors such as 1.0e-50 under hybrid)", who, k + 1);
}

// Virtual atoms of two atoms may be nearer to each other than the atoms, by the length of both offsets.
void LammpsModel::check_spins()
{
  if (!atom->sp_flag)
    error->all(FLERR, "{}: {} is a spin model and needs \"atom_style spin\", the input has \"atom_style {}\"; change "
               "it, and give each atom its spin", who, path(), atom->atom_style);
  const double mine = largest_offset();
  MPI_Allreduce(&mine, &impl->spin_reach, 1, MPI_DOUBLE, MPI_MAX, world);
  impl->spin_reach *= SPIN_GROWTH;
}

// Length of an atom's spin times that of the model for its type, in Å. LAMMPS gives spins of no length a direction
// that is no number.
double LammpsModel::spin_scale(int i) const
{
  const int type = model_type(atom->type[i]);
  return type < 0 ? 0.0 : info().virtual_scale[type] * atom->sp[i][3];
}

double LammpsModel::largest_offset() const
{
  double longest = 0.0;
  for (int i = 0; i < atom->nlocal; ++i) {
    const double scale = spin_scale(i), *s = atom->sp[i];
    if (scale != 0.0) longest = std::max(longest, std::fabs(scale) * std::hypot(s[0], s[1], s[2]));
  }
  return longest;
}

double LammpsModel::neighbor_cutoff() const { return info().neighbors.cutoff + 2.0 * impl->spin_reach; }

void LammpsModel::warn_about_exclusions()
{
  if (neighbor->nex_type + neighbor->nex_group + neighbor->nex_mol > 0 && comm->me == 0)
    error->warning(FLERR, "{}: neigh_modify exclude removes pairs that the model was trained with", who);
}

// Of the atoms or, for spin models, also of their virtual atoms.
const double *LammpsModel::positions()
{
  const int nall = atom->nlocal + atom->nghost;
  const double *x = nall ? atom->x[0] : nullptr;
  if (!impl->spin) return x;
  if (largest_offset() > impl->spin_reach)
    throw std::runtime_error("spins have become more than " + std::to_string(SPIN_GROWTH) +
                             " times as long as they were at the beginning of the run, so neighbors may be missing; "
                             "divide it into shorter runs");
  impl->offsets.assign(3 * static_cast<std::size_t>(nall), 0.0);
  for (int i = 0; i < nall; ++i) {
    const double scale = spin_scale(i);
    for (int k = 0; k < 3 && scale != 0.0; ++k) impl->offsets[3 * i + k] = scale * atom->sp[i][k];
  }
  return impl->spin->place(x, impl->offsets.data());
}

void LammpsModel::check_periodic()
{
  std::vector<std::string> open;
  for (int k = 0; k < 3; ++k)
    if (!domain->periodicity[k]) open.push_back({"xyz"[k]});
  if (open.empty()) return;
  error->all(FLERR, "{}: {} has electrostatics of a periodic box, but this one is open along {}; write \"boundary p p "
             "p\", and leave empty space around what is not periodic", who, path(), joined(open));
}

// Null for models without electrostatics.
const dpsim::Surroundings *LammpsModel::surroundings(bool atom_virial)
{
  if (!info().has_electrostatics()) return nullptr;
  impl->center_positions.clear();
  for (const int i : centers())
    impl->center_positions.insert(impl->center_positions.end(), atom->x[i], atom->x[i] + 3);
  impl->around.positions = impl->center_positions.data();
  impl->around.cell = {domain->xprd, 0.0, 0.0, domain->xy, domain->yprd, 0.0, domain->xz, domain->yz, domain->zprd};
  impl->around.comm = world;
  impl->around.atom_virial = atom_virial;
  return &impl->around;
}

void LammpsModel::evaluate(NeighList *list, bool atom_virial)
{
  if (impl->rows.is_new(list)) {
    impl->rows.renew(list, impl->halo);
    auto pairs = impl->rows.pairs();
    if (impl->spin) pairs = impl->spin->renew(pairs, atom->nlocal + atom->nghost);
    impl->graph->renew(pairs, std::move(impl->rows.row), std::move(impl->rows.row_types));
  }
  impl->halo.begin();
  const auto before = impl->halo.bytes_sent();
  const bool alone = comm->nprocs == 1 || !impl->passes_messages();
  const auto &tensors = impl->graph->update(positions());
  impl->output = &impl->model->evaluate(tensors, alone ? 0 : impl->halo.handle(), surroundings(atom_virial));
  impl->halo_bytes = static_cast<double>(impl->halo.bytes_sent() - before);
  if (impl->reported) return;
  impl->reported = true;
  report_run(lmp, who, static_cast<std::int64_t>(centers().size()), dpsim::sizes_of(tensors), impl->halo,
             impl->model->peak_device_bytes());
}

// An atom whose position is no number is nobody's neighbour, so that results need not show it.
void LammpsModel::check_numbers(const dpsim::Response &r)
{
  const double *x = atom->nlocal ? atom->x[0] : nullptr;
  double sum = r.energy;
  for (std::ptrdiff_t k = 0; k < 3 * atom->nlocal; ++k) sum += x[k] + r.forces[k];
  if (std::isfinite(sum)) return;
  std::string where = "the energy";
  for (std::ptrdiff_t k = 3 * atom->nlocal - 1; k >= 0; --k) {
    const std::string of = " of atom " + std::to_string(atom->tag[k / 3]);
    if (!std::isfinite(r.forces[k])) where = "the force" + of;
    if (!std::isfinite(x[k])) where = "the position" + of;
  }
  throw std::runtime_error(where + " is not a finite number at step " + std::to_string(update->ntimestep) +
                           "; the dynamics has become unstable: use a shorter time step, or look where atoms "
                           "are too close at the start");
}

dpsim::Response LammpsModel::gather(const dpsim::Want &want)
{
  dpsim::Response r;
  all_or_none([&] {
    r = impl->graph->gather(*impl->output, want);
    check_numbers(r);
  });
  if (!impl->spin) return r;
  const std::size_t size = 18 * static_cast<std::size_t>(atom->nlocal + atom->nghost);
  if (want.atom_virial) impl->atom_virial.assign(r.atom_virial, r.atom_virial + size);
  impl->spin->fold(r.forces, want.virial ? r.virial : nullptr, want.atom_virial ? impl->atom_virial.data() : nullptr);
  r.forces = impl->spin->forces();
  r.virtual_forces = impl->spin->virtual_forces();
  if (want.atom_virial) r.atom_virial = impl->atom_virial.data();
  return r;
}

int LammpsModel::pack(int n, const int *atoms, double *buffer) const { return impl->rows.pack(n, atoms, buffer); }
void LammpsModel::unpack(int n, int first, const double *buffer) { impl->rows.unpack(n, first, buffer); }
double LammpsModel::memory_usage() const
{
  return impl->rows.memory_usage() + static_cast<double>(impl->halo.buffer_bytes());
}
