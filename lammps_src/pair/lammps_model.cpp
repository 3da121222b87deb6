#include "pair/lammps_model.h"

#include "pair/atom_rows.h"
#include "model/exported_model.h"
#include "halo/halo.h"
#include "model/model_graph.h"
#include "pair/model_view.h"
#include "model/piecewise.h"
#include "pair/run_report.h"
#include "system/surroundings.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "neighbor.h"
#include "universe.h"
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

std::string joined(const std::vector<std::string> &words)
{
  std::string out;
  for (const auto &word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

// What two files that are copies of each other have in common, and two others have not.
std::string identity(const dpsim::ModelInfo &info)
{
  return info.digest + ", " + info.dtype + ", torch " + info.torch + ", dpsim " + info.dpsim;
}

}    // namespace

struct LammpsModel::Member {
  std::unique_ptr<dpsim::ExportedModel> model;
  ModelView *view = nullptr;    // other models may have the same

  bool passes_messages() const { return model->info().message_passing_layers > 0; }
};

struct LammpsModel::Impl {
  Impl(LAMMPS *lmp, MPI_Comm comm, std::function<void()> forward) : halo(comm), rows(lmp, std::move(forward)) {}

  std::vector<Member> members;
  std::vector<std::unique_ptr<ModelView>> views;
  dpsim::Halo halo;
  AtomRows rows;
  std::vector<double> positions;                  // (n_all,3) Å, where LAMMPS's unit of length is another
  dpsim::Surroundings around;                     // of models with electrostatics
  std::vector<double> center_positions;           // (N,3) Å likewise
  int evaluated = 0;                              // the member that was evaluated last, and what of it is wanted
  dpsim::Want want;
  dpsim::GraphSizes sizes;                        // of the last evaluation
  double halo_bytes = 0.0;
  bool reported = false;                          // whether this run has been described

  ModelView &view(int k) { return *members[k].view; }
};

LammpsModel::LammpsModel(LAMMPS *lmp, std::string name, std::function<void()> forward) :
    Pointers(lmp), impl(std::make_unique<Impl>(lmp, world, std::move(forward))), who(std::move(name)),
    sources_(lmp, who)
{
  check_program();
  dpsim_keep_memory();
}

LammpsModel::~LammpsModel() = default;

int LammpsModel::size() const { return static_cast<int>(impl->members.size()); }
const dpsim::ModelInfo &LammpsModel::info(int k) const { return impl->members[k].model->info(); }
const std::string &LammpsModel::path(int k) const { return impl->members[k].model->path(); }
int LammpsModel::model_type(int lammps_type) const { return impl->view(0).type(lammps_type); }
double LammpsModel::virtual_scale(int k, int lammps_type) const { return impl->view(k).virtual_scale(lammps_type); }
const std::vector<int> &LammpsModel::centers() const { return impl->rows.centers(); }
const double *LammpsModel::atomic_values() { return impl->view(impl->evaluated).gather(impl->want).atomic_values; }
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

// ---- loading ---------------------------------------------------------------------------------------

// The plugin's idea of LAMMPS's classes holds only for the version and sizes it was compiled for.
void LammpsModel::check_program()
{
  if (lmp->num_ver != DPSIM_LAMMPS_VERSION)
    error->all(FLERR, "{} was built for LAMMPS version {}, this is {}; run \"dpsim lammps build --force\"", who,
               DPSIM_LAMMPS_VERSION, lmp->num_ver);
  using Setting = int (*)(void *, const char *);
  const auto setting = reinterpret_cast<Setting>(dlsym(RTLD_DEFAULT, "lammps_extract_setting"));
  if (!setting) return;
  const struct {
    const char *name, *what;
    int built;
  } sizes[] = {{"tagint", "atom ids", sizeof(tagint)}, {"bigint", "counts of atoms and steps", sizeof(bigint)},
               {"imageint", "image flags", sizeof(imageint)}};
  for (const auto &[name, what, built] : sizes)
    if (const int found = setting(nullptr, name); found != built)
      error->all(FLERR, "{} was built for {} of {} bytes, this LAMMPS has {}; build it with "
                 "\"dpsim lammps build --lammps-source DIR\" for this LAMMPS", who, what, built, found);
}

void LammpsModel::load(const std::vector<std::string> &paths, const std::vector<std::string> &words)
{
  all_or_none([&] { keywords_ = dpsim::parse_keywords(words); });
  if (paths.size() < 2 && !keywords_.deviation.given.empty())
    error->all(FLERR, "{}: the keyword {} is about the deviation between models, but only {} is given; name two or more "
               "models or leave it out", who, keywords_.deviation.given, paths[0]);
  load_members(paths);
  check_same_files();
  all_or_none([&] { check_chunk(); });
  all_or_none([&] { check_ensemble(); });
  all_or_none([&] { choose_inputs(); });
  impl->rows.set_types({}, any_passes_messages(), info().has_spin());
  std::string halo;
  all_or_none([&] {
    halo = impl->halo.choose_route(dpsim::route_of(keywords_.mpi), impl->members[0].model->device());
  });
  report(halo);
}

// Of several partitions, which may not all have a model, by the rank among all: no question that all must answer.
int LammpsModel::rank_on_machine() const
{
  if (universe->nworlds > 1) return universe->me;
  MPI_Comm node;
  int rank;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, comm->me, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &rank);
  MPI_Comm_free(&node);
  return rank;
}

// Models that see the atoms alike share their lists.
void LammpsModel::load_members(const std::vector<std::string> &paths)
{
  const int local_rank = rank_on_machine();
  impl->members.clear();
  impl->views.clear();
  for (const auto &path : paths) {
    Member member;
    all_or_none([&] { member.model = std::make_unique<dpsim::ExportedModel>(path, keywords_.device, local_rank); });
    const auto &found = member.model->info();
    for (const auto &other : impl->members)
      if (!member.view && other.model->device() == member.model->device() && other.view->fits(found))
        member.view = other.view;
    if (!member.view) {
      impl->views.push_back(
          std::make_unique<ModelView>(lmp, who, path, found, member.model->device(), keywords_.chunk));
      member.view = impl->views.back().get();
    }
    impl->members.push_back(std::move(member));
  }
}

// A rank on another machine may have an older file under the same name.
void LammpsModel::check_same_files()
{
  for (int k = 0; k < size(); ++k) {
    std::string first = identity(info(k));
    int length = static_cast<int>(first.size());
    MPI_Bcast(&length, 1, MPI_INT, 0, world);
    first.resize(length);
    MPI_Bcast(first.data(), length, MPI_CHAR, 0, world);
    all_or_none([&] {
      if (identity(info(k)) != first)
        throw std::runtime_error("model file " + path(k) + " on rank " + std::to_string(comm->me) +
                                 " is not that of rank 0 (digest " + identity(info(k)) + " against " + first +
                                 "); give all ranks the same file");
    });
  }
}

// Atoms that pass messages cannot be evaluated apart.
void LammpsModel::check_chunk()
{
  if (keywords_.chunk > 0 && std::all_of(impl->members.begin(), impl->members.end(),
                                         [](const Member &m) { return m.passes_messages(); }))
    throw std::runtime_error("chunk " + std::to_string(keywords_.chunk) + " evaluates so many atoms at a time, but in " +
                             path(0) + " all atoms pass messages to each other; leave out the keyword chunk");
}

void LammpsModel::check_ensemble()
{
  for (int k = 1; k < size(); ++k) {
    const auto differ = [&](const std::string &what) {
      throw std::runtime_error("models " + path(0) + " and " + path(k) + " " + what +
                               "; an ensemble is made of models of the same kind");
    };
    if (info(k).output != info().output) differ("predict " + info().output + " and " + info(k).output);
    if (info(k).has_spin() != info().has_spin()) differ("differ in that one takes spins");
    if (info(k).n_fparam != info().n_fparam) differ("take different numbers of frame parameters");
    if (info(k).n_aparam != info().n_aparam) differ("take different numbers of atomic parameters");
    if (info(k).charge_spin != info().charge_spin) differ("differ in that one takes charge and spin");
    if (impl->members[k].model->device() != impl->members[0].model->device()) differ("run on different devices");
  }
}

void LammpsModel::choose_inputs()
{
  for (auto &member : impl->members)
    member.model->set_inputs(dpsim::choose_inputs(keywords_, member.model->info()));
  sources_.choose(keywords_, info().n_fparam, info().n_aparam);
}

void LammpsModel::report(const std::string &halo) const
{
  if (comm->me != 0) return;
  for (int k = 0; k < size(); ++k)
    utils::logmesg(lmp, "dpsim model {}: {}, {} elements, cutoff {} A, {} message-passing layers, digest {}\n", path(k),
                   info(k).dtype, info(k).type_map.size(), info(k).neighbors.cutoff, info(k).message_passing_layers,
                   info(k).digest);
  utils::logmesg(lmp, "  on {}, feature rows between ranks through {}\n", impl->members[0].model->device(), halo);
}

bool LammpsModel::any_passes_messages() const
{
  return std::any_of(impl->members.begin(), impl->members.end(), [](const Member &m) { return m.passes_messages(); });
}

void LammpsModel::map_types(const std::string &where, const char *const *words, bool may_be_null)
{
  for (int k = 0; k < size(); ++k) impl->view(k).set_types(find_types(k, where, words, may_be_null));
  std::vector<char> taken(atom->ntypes + 1, 0);
  for (int t = 1; t <= atom->ntypes; ++t) taken[t] = model_type(t) >= 0;
  impl->rows.set_types(std::move(taken), any_passes_messages(), info().has_spin());
}

std::vector<int> LammpsModel::find_types(int k, const std::string &where, const char *const *words, bool may_be_null)
{
  const auto &names = info(k).type_map;
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
      error->all(FLERR, "{}: element {} (for atom type {}) is not in the model{}, which knows {}", where, name, t,
                 size() > 1 ? " " + path(k) : "", joined(names));
    types[t] = static_cast<int>(found - names.begin());
  }
  return types;
}

// ---- at the beginning of a run ---------------------------------------------------------------------

void LammpsModel::init()
{
  units_ = lammps_units(lmp, who);
  if (info().has_spin() && (units_.energy != 1.0 || units_.length != 1.0))
    error->all(FLERR, "{}: spin models work in \"units metal\", as all of LAMMPS's spin styles do; write \"units "
               "metal\" at the top of the input", who);
  check_special_bonds();
  warn_about_exclusions();
  for (const auto &view : impl->views) view->init();
  sources_.init();
  for (int k = 0; k < size(); ++k)
    if (info(k).has_electrostatics()) check_periodic(k);
  impl->rows.forget();
  impl->reported = !keywords_.verbose;
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

void LammpsModel::warn_about_exclusions()
{
  if (neighbor->nex_type + neighbor->nex_group + neighbor->nex_mol > 0 && comm->me == 0)
    error->warning(FLERR, "{}: neigh_modify exclude removes pairs that the model was trained with", who);
}

double LammpsModel::neighbor_cutoff() const
{
  double reach = 0.0;
  for (const auto &view : impl->views) reach = std::max(reach, view->reach());
  return reach * units_.length;
}

void LammpsModel::check_periodic(int k)
{
  std::vector<std::string> open;
  for (int axis = 0; axis < 3; ++axis)
    if (!domain->periodicity[axis]) open.push_back({"xyz"[axis]});
  if (open.empty()) return;
  error->all(FLERR, "{}: {} has electrostatics of a periodic box, but this one is open along {}; write \"boundary p p "
             "p\", and leave empty space around what is not periodic", who, path(k), joined(open));
}

// ---- at each step ----------------------------------------------------------------------------------

void LammpsModel::evaluate(NeighList *list, const dpsim::Want &want)
{
  if (impl->rows.is_new(list)) {
    impl->rows.renew(list, impl->halo);
    for (const auto &view : impl->views) view->renew(impl->rows);
  }
  for (const auto &view : impl->views) view->atoms_moved();
  update_inputs();
  impl->halo.begin();
  const auto before = impl->halo.bytes_sent();
  evaluate_other(0, want);
  impl->halo_bytes = static_cast<double>(impl->halo.bytes_sent() - before);
  if (impl->reported) return;
  impl->reported = true;
  report_run(lmp, who, static_cast<std::int64_t>(centers().size()), impl->sizes, impl->halo,
             impl->members[0].model->peak_device_bytes());
}

void LammpsModel::evaluate_other(int k, const dpsim::Want &want)
{
  const dpsim::Threads threads(comm->nthreads);
  const Member &member = impl->members[k];
  const bool alone = comm->nprocs == 1 || !member.passes_messages();
  impl->around.atom_virial = want.atom_virial;
  impl->evaluated = k;
  impl->want = want;
  impl->sizes = dpsim::evaluate_pieces(*member.model, member.view->graph(positions()), want,
                                       alone ? 0 : impl->halo.handle(), surroundings(k));
}

const double *LammpsModel::positions()
{
  const std::size_t size = 3 * static_cast<std::size_t>(atom->nlocal + atom->nghost);
  const double *x = size ? atom->x[0] : nullptr;
  if (units_.length == 1.0) return x;
  impl->positions.assign(x, x + size);
  for (double &value : impl->positions) value /= units_.length;
  return impl->positions.data();
}

// Null for models without electrostatics.
const dpsim::Surroundings *LammpsModel::surroundings(int k)
{
  if (!info(k).has_electrostatics()) return nullptr;
  const double unit = units_.length;
  impl->center_positions.clear();
  for (const int i : centers())
    for (int axis = 0; axis < 3; ++axis) impl->center_positions.push_back(atom->x[i][axis] / unit);
  impl->around.positions = impl->center_positions.data();
  impl->around.cell = {domain->xprd, 0.0, 0.0, domain->xy, domain->yprd, 0.0, domain->xz, domain->yz, domain->zprd};
  for (double &value : impl->around.cell) value /= unit;
  impl->around.comm = world;
  return &impl->around;
}

void LammpsModel::update_inputs()
{
  if (sources_.fparam_changes()) {
    const auto &values = sources_.fparam();
    for (auto &member : impl->members) member.model->set_fparam(values);
  }
  if (sources_.aparam_changes()) {
    const auto &values = sources_.aparam(centers());
    for (auto &member : impl->members) member.model->set_atomic_parameters(values);
  }
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

dpsim::Response LammpsModel::gather()
{
  dpsim::Response r;
  all_or_none([&] {
    r = impl->view(impl->evaluated).gather(impl->want);
    check_numbers(r);
  });
  return r;
}

int LammpsModel::pack(int n, const int *atoms, double *buffer) const { return impl->rows.pack(n, atoms, buffer); }
void LammpsModel::unpack(int n, int first, const double *buffer) { impl->rows.unpack(n, first, buffer); }
double LammpsModel::memory_usage() const
{
  return impl->rows.memory_usage() + static_cast<double>(impl->halo.buffer_bytes());
}
