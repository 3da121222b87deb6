#include "pair/atom_rows.h"

#include "atom.h"
#include "comm.h"
#include "neigh_list.h"
#include "neighbor.h"

#include <algorithm>
#include <utility>

using namespace LAMMPS_NS;

AtomRows::AtomRows(LAMMPS *lmp, std::function<void()> forward) : Pointers(lmp), forward_(std::move(forward)) {}

void AtomRows::set_types(std::vector<char> taken, bool linked, bool doubled)
{
  taken_ = std::move(taken);
  linked_ = linked;
  doubled_ = doubled;
}

// Making the plan is collective, so all ranks decide as one, even if only one sees a reason. Some fixes change
// types without a new list.
bool AtomRows::is_new(NeighList *list)
{
  const int *types = atom->type, *types_end = types + atom->nlocal + atom->nghost;
  int mine = neighbor->ago == 0 || builds_ != neighbor->ncalls || list_ != list || built_local_ != atom->nlocal ||
      !std::equal(types, types_end, built_types_.begin(), built_types_.end());
  int any = mine;
  if (comm->nprocs > 1 && linked_) MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, world);
  builds_ = neighbor->ncalls;
  list_ = list;
  built_local_ = atom->nlocal;
  built_types_.assign(types, types_end);
  return any != 0;
}

void AtomRows::renew(NeighList *list, dpsim::Halo &halo)
{
  const std::size_t nall = atom->nlocal + atom->nghost;
  list_ = list;
  row_.assign(doubled_ ? 2 * nall : nall, -1);
  number_owned();
  if (linked_)
    link_ghosts(halo);
  else
    count_ghosts();
  find_types();
}

// Owned rows follow LAMMPS's list, which under hybrid holds this style's atoms only.
void AtomRows::number_owned()
{
  centers_.clear();
  for (int k = 0; k < list_->inum; ++k) {
    const int i = list_->ilist[k];
    if (!taken_[atom->type[i]]) continue;
    row_[i] = static_cast<std::int64_t>(centers_.size());
    centers_.push_back(i);
  }
  if (!doubled_) return;
  const auto n = static_cast<std::int64_t>(centers_.size());
  for (const int i : centers_) row_[atom->nlocal + atom->nghost + i] = n + row_[i];
}

// Each ghost learns the rank and the rows of its owner; images of one atom then share one feature row.
void AtomRows::link_ghosts(dpsim::Halo &halo)
{
  const int nlocal = atom->nlocal, nghost = atom->nghost, nall = nlocal + nghost, w = width();
  owner_.assign(static_cast<std::size_t>(w) * nall, -1.0);
  for (int i = 0; i < nlocal; ++i) {
    owner_[w * i] = comm->me;
    for (int half = 0; half < w - 1; ++half) owner_[w * i + 1 + half] = static_cast<double>(row_[half * nall + i]);
  }
  forward_();
  std::vector<int> owner_rank;
  std::vector<std::int64_t> owner_row, slot;
  for (int half = 0; half < w - 1; ++half)
    for (int g = nlocal; g < nall; ++g) {
      owner_rank.push_back(static_cast<int>(owner_[w * g]));
      owner_row.push_back(static_cast<std::int64_t>(owner_[w * g + 1 + half]));
    }
  const auto owned = static_cast<std::int64_t>(centers_.size()) * (w - 1);
  halo.plan(owned, owner_rank, owner_row, slot);
  for (int half = 0; half < w - 1; ++half)
    std::copy_n(slot.begin() + static_cast<std::ptrdiff_t>(half) * nghost, nghost,
                row_.begin() + static_cast<std::ptrdiff_t>(half) * nall + nlocal);
}

// Without messages only the type of a ghost matters, and that needs no communication.
void AtomRows::count_ghosts()
{
  const int nlocal = atom->nlocal, nall = nlocal + atom->nghost;
  auto next = static_cast<std::int64_t>(centers_.size()) * (doubled_ ? 2 : 1);
  for (int i = nlocal; i < nall; ++i) {
    if (!taken_[atom->type[i]]) continue;
    row_[i] = next++;
    if (doubled_) row_[nall + i] = next++;
  }
}

void AtomRows::find_types()
{
  const std::size_t nall = atom->nlocal + atom->nghost;
  row_types_.clear();
  for (std::size_t k = 0; k < row_.size(); ++k) {
    if (row_[k] < 0) continue;
    const auto at = static_cast<std::size_t>(row_[k]);
    if (at >= row_types_.size()) row_types_.resize(at + 1);
    row_types_[at] = k < nall ? atom->type[k] : -atom->type[k - nall];
  }
}

dpsim::PairList AtomRows::pairs() const
{
  dpsim::PairList out;
  out.n_centers = static_cast<std::int64_t>(centers_.size());
  out.centers = centers_.data();
  out.n_neighbors = list_->numneigh;
  out.neighbors = list_->firstneigh;
  out.mask = NEIGHMASK;
  return out;
}

int AtomRows::pack(int n, const int *atoms, double *buffer) const
{
  const int w = width();
  for (int k = 0; k < n; ++k)
    std::copy_n(owner_.begin() + static_cast<std::ptrdiff_t>(w) * atoms[k], w, buffer + w * k);
  return w * n;
}

void AtomRows::unpack(int n, int first, const double *buffer)
{
  const int w = width();
  std::copy(buffer, buffer + w * n, owner_.begin() + static_cast<std::ptrdiff_t>(w) * first);
}

double AtomRows::memory_usage() const
{
  return static_cast<double>(owner_.capacity() * sizeof(double) + centers_.capacity() * sizeof(int));
}
