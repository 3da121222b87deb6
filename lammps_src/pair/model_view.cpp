#include "pair/model_view.h"

#include "pair/atom_rows.h"

#include "atom.h"
#include "error.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

using namespace LAMMPS_NS;

namespace {

// Spins may become this much longer during a run than they were at its beginning.
constexpr double SPIN_GROWTH = 1.1;

}    // namespace

ModelView::ModelView(LAMMPS *lmp, std::string who, std::string file, const dpsim::ModelInfo &info,
                     const std::string &device, std::int64_t chunk) :
    Pointers(lmp), who_(std::move(who)), file_(std::move(file)), type_map_(info.type_map), neighbors_(info.neighbors),
    passes_messages_(info.message_passing_layers > 0), virtual_scale_(info.virtual_scale),
    graph_(dpsim::ModelGraph::make(info.neighbors, device, dpsim::piece_rule(passes_messages_, chunk, device))),
    spin_(info.has_spin() ? std::make_unique<dpsim::SpinSystem>() : nullptr)
{
}

bool ModelView::fits(const dpsim::ModelInfo &info) const
{
  return info.type_map == type_map_ && info.neighbors == neighbors_ && info.virtual_scale == virtual_scale_ &&
      (info.message_passing_layers > 0) == passes_messages_;
}

// Virtual atoms of two atoms may be nearer to each other than the atoms, by the length of both offsets.
void ModelView::init()
{
  if (!spin_) return;
  if (!atom->sp_flag)
    error->all(FLERR, "{}: {} is a spin model and needs \"atom_style spin\", the input has \"atom_style {}\"; change "
               "it, and give each atom its spin", who_, file_, atom->atom_style);
  const double mine = largest_offset();
  MPI_Allreduce(&mine, &spin_reach_, 1, MPI_DOUBLE, MPI_MAX, world);
  spin_reach_ *= SPIN_GROWTH;
}

double ModelView::virtual_scale(int lammps_type) const
{
  return virtual_scale_.empty() || type(lammps_type) < 0 ? 0.0 : virtual_scale_[type(lammps_type)];
}

// Length of an atom's spin times that of the model for its type, in Å. LAMMPS gives spins of no length a direction
// that is no number.
double ModelView::offset_scale(int i) const { return virtual_scale(atom->type[i]) * atom->sp[i][3]; }

double ModelView::largest_offset() const
{
  double longest = 0.0;
  for (int i = 0; i < atom->nlocal; ++i) {
    const double scale = offset_scale(i), *s = atom->sp[i];
    if (scale != 0.0) longest = std::max(longest, std::fabs(scale) * std::hypot(s[0], s[1], s[2]));
  }
  return longest;
}

// Rows are known by LAMMPS type, the model counts its own; those of virtual atoms follow.
void ModelView::renew(const AtomRows &rows)
{
  auto pairs = rows.pairs();
  if (spin_) pairs = spin_->renew(pairs, atom->nlocal + atom->nghost);
  std::vector<std::int64_t> row_types;
  row_types.reserve(rows.row_types().size());
  const auto n_types = static_cast<std::int64_t>(type_map_.size());
  for (const int t : rows.row_types()) row_types.push_back(t > 0 ? types_[t] : n_types + types_[-t]);
  graph_->renew(pairs, rows.row(), std::move(row_types));
}

dpsim::ModelGraph &ModelView::graph(const double *positions)
{
  if (!is_placed_) graph_->place(spin_ ? with_virtual_atoms(positions) : positions);
  is_placed_ = true;
  return *graph_;
}

const double *ModelView::with_virtual_atoms(const double *x)
{
  if (largest_offset() > spin_reach_)
    throw std::runtime_error("spins have become more than " + std::to_string(SPIN_GROWTH) +
                             " times as long as they were at the beginning of the run, so neighbors may be missing; "
                             "divide it into shorter runs");
  const int nall = atom->nlocal + atom->nghost;
  offsets_.assign(3 * static_cast<std::size_t>(nall), 0.0);
  for (int i = 0; i < nall; ++i) {
    const double scale = offset_scale(i);
    for (int k = 0; k < 3 && scale != 0.0; ++k) offsets_[3 * i + k] = scale * atom->sp[i][k];
  }
  return spin_->place(x, offsets_.data());
}

dpsim::Response ModelView::gather(const dpsim::Want &want)
{
  dpsim::Response r = graph_->gather();
  if (!spin_ || !r.forces) return r;
  const std::size_t size = 18 * static_cast<std::size_t>(atom->nlocal + atom->nghost);
  if (want.atom_virial) atom_virial_.assign(r.atom_virial, r.atom_virial + size);
  spin_->fold(r.forces, want.virial ? r.virial : nullptr, want.atom_virial ? atom_virial_.data() : nullptr);
  r.forces = spin_->forces();
  r.virtual_forces = spin_->virtual_forces();
  if (want.atom_virial) r.atom_virial = atom_virial_.data();
  return r;
}
