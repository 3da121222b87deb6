#include "model/device_graph.h"

#include "model/electrostatics.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

namespace dpsim {
namespace {

// Place of each item among those of its key, nearest first; ties in the order given. key and r2 (M).
at::Tensor places(const at::Tensor &key, const at::Tensor &r2)
{
  const at::Tensor by_distance = at::argsort(r2, /*stable=*/true, 0, /*descending=*/false);
  const at::Tensor by_key =
      at::argsort(key.index_select(0, by_distance), /*stable=*/true, 0, /*descending=*/false);
  const at::Tensor order = by_distance.index_select(0, by_key);
  const at::Tensor sorted = key.index_select(0, order);
  const at::Tensor place = at::arange(key.size(0), key.options()) - at::searchsorted(sorted, sorted);
  return at::empty_like(place).scatter_(0, order, place);
}

at::Tensor row_pointer(const at::Tensor &center, std::int64_t n)
{
  return at::searchsorted(center, at::arange(n + 1, center.options()));
}

at::Tensor reached(const NeighborSpec &spec, const at::Tensor &r2)
{
  const double cut2 = spec.cutoff * spec.cutoff;
  return spec.strict ? r2.lt(cut2) : r2.le(cut2);
}

}    // namespace

void DeviceGraph::Members::select(const at::Tensor &index)
{
  for (at::Tensor *t : {&center, &r2, &place, &place_in_type, &type, &type_pair})
    if (t->defined()) *t = t->index_select(0, index);
}

DeviceGraph::DeviceGraph(const NeighborSpec &spec, const std::string &device, const PieceRule &rule) :
    ModelGraph(rule), spec_(spec), nodes_(all_lists(spec_)), limits_(nodes_.size()), device_(device), members_(nodes_.size())
{
  const c10::InferenceMode inference;
  for (std::size_t k = 0; k < nodes_.size(); ++k) {
    const NeighborSpec &list = *nodes_[k].spec;
    if (!list.sel_by_type.empty()) limits_[k].sel_by_type = to_device(list.sel_by_type);
    if (list.excluded.empty()) continue;
    at::Tensor table = at::empty({list.n_types * list.n_types}, at::kBool);
    std::copy(list.excluded.begin(), list.excluded.end(), table.data_ptr<bool>());
    limits_[k].allowed = table.logical_not().to(device_);
  }
  tensors_.lists.resize(nodes_.size());
  one_of_each_ = at::arange(spec_.n_types, at::TensorOptions(at::kLong).device(device_));
}

at::Tensor DeviceGraph::to_device(const std::vector<std::int64_t> &v) const
{
  return at::tensor(v, at::kLong).to(device_);
}

void DeviceGraph::renew(const PairList &list, std::vector<std::int64_t> row,
                        std::vector<std::int64_t> row_types)
{
  const c10::InferenceMode inference;
  std::vector<std::int64_t> near, near_atom, far, far_atom;
  most_ = 0;
  most_by_type_.assign(static_cast<std::size_t>(spec_.n_types), 0);
  first_listed_.assign(1, 0);
  for (std::int64_t c = 0; c < list.n_centers; ++c) {
    const int atom = list.centers[c];
    const std::size_t before = near.size();
    std::vector<std::int64_t> by_type(most_by_type_.size(), 0);
    for (int k = 0; k < list.n_neighbors[atom]; ++k) {
      const int other = list.neighbors[atom][k] & list.mask;
      if (row[other] < 0) continue;
      near.push_back(c);
      near_atom.push_back(atom);
      far.push_back(row[other]);
      far_atom.push_back(other);
      ++by_type[row_types[row[other]]];
    }
    first_listed_.push_back(static_cast<std::int64_t>(near.size()));
    most_ = std::max<std::int64_t>(most_, near.size() - before);
    for (std::size_t t = 0; t < by_type.size(); ++t) most_by_type_[t] = std::max(most_by_type_[t], by_type[t]);
  }
  list_ = list;
  row_ = std::move(row);
  n_atoms_ = static_cast<std::int64_t>(row_.size());
  own_atom_ = to_device(std::vector<std::int64_t>(list.centers, list.centers + list.n_centers));
  near_row_ = to_device(near);
  center_atom_ = to_device(near_atom);
  far_row_ = to_device(far);
  far_atom_ = to_device(far_atom);
  row_types_ = to_device(row_types);
  types_ = row_types_.narrow(0, 0, list.n_centers);
  const auto host = at::TensorOptions().dtype(at::kDouble).pinned_memory(!device_.is_cpu());
  staging_ = at::empty({n_atoms_, 3}, host);
  pieces_.clear();
}

void DeviceGraph::place(const double *positions)
{
  const c10::InferenceMode inference;
  if (pieces_.empty()) pieces_ = divide_centers(rule_, spec_, list_, positions, row_.data());
  std::copy(positions, positions + 3 * n_atoms_, staging_.data_ptr<double>());
  positions_ = staging_.to(device_, /*non_blocking=*/true);
  is_current_ = false;
}

const GraphTensors &DeviceGraph::edges(const Piece &piece)
{
  if (is_current_ && piece == piece_) return tensors_;
  const c10::InferenceMode inference;
  piece_ = piece;
  is_current_ = true;
  take_rows();
  take_candidates();
  count_places();
  fill_outermost();
  for (std::size_t k = 1; k < nodes_.size(); ++k) fill_inner(k);
  for (std::size_t k = 0; k < nodes_.size(); ++k) {
    tensors_.lists[k].edge_ptr = row_pointer(members_[k].center, piece_.size());
    if (nodes_[k].spec->pairs) tensors_.lists[k].pairs = all_pairs(members_[k].center);
  }
  return tensors_;
}

// Of a piece that is not the whole, neighbours are known by their types alone, as in build_graph.
void DeviceGraph::take_rows()
{
  const bool is_whole = piece_.size() == list_.n_centers;
  tensors_.first = piece_.first;
  tensors_.n_all = list_.n_centers;
  tensors_.types = types_.narrow(0, piece_.first, piece_.size());
  tensors_.row_types = is_whole ? row_types_ : at::cat({tensors_.types, one_of_each_});
  tensors_.frame = at::zeros({piece_.size()}, tensors_.types.options());
}

// What lies within the outermost cutoff, in the order of LAMMPS's list.
void DeviceGraph::take_candidates()
{
  const std::int64_t first = first_listed_[piece_.first], n = first_listed_[piece_.end] - first;
  const at::Tensor far_atom = far_atom_.narrow(0, first, n), center_atom = center_atom_.narrow(0, first, n);
  const at::Tensor d = positions_.index_select(0, far_atom) - positions_.index_select(0, center_atom);
  const at::Tensor r2 = d.square().sum(1);
  const at::Tensor index = reached(spec_, r2).nonzero().squeeze(1);
  Members &found = members_[0];
  found = Members();
  found.r2 = r2.index_select(0, index);
  found.center = near_row_.narrow(0, first, n).index_select(0, index);
  if (piece_.first > 0) found.center -= piece_.first;
  tensors_.displacements = d.index_select(0, index);
  tensors_.neighbor = far_row_.narrow(0, first, n).index_select(0, index);
  edge_atom_ = far_atom.index_select(0, index);
  edge_center_atom_ = center_atom.index_select(0, index);
  found.type = row_types_.index_select(0, tensors_.neighbor);
  if (piece_.size() < list_.n_centers) tensors_.neighbor = found.type + piece_.size();
  if (std::any_of(limits_.begin(), limits_.end(), [](const Limits &l) { return l.allowed.defined(); }))
    found.type_pair = tensors_.types.index_select(0, found.center) * spec_.n_types + found.type;
}

bool DeviceGraph::may_drop(const NeighborSpec &spec) const { return most_ > spec.sel; }

bool DeviceGraph::may_drop_by_type(const NeighborSpec &spec) const
{
  for (std::size_t t = 0; t < spec.sel_by_type.size(); ++t)
    if (most_by_type_[t] > spec.sel_by_type[t]) return true;
  return false;
}

// Only where some list may be too short for what there is.
void DeviceGraph::count_places()
{
  Members &found = members_[0];
  const auto any = [&](auto test) {
    return std::any_of(nodes_.begin(), nodes_.end(), [&](const ListNode &n) { return (this->*test)(*n.spec); });
  };
  if (any(&DeviceGraph::may_drop)) found.place = places(found.center, found.r2);
  if (any(&DeviceGraph::may_drop_by_type))
    found.place_in_type = places(found.center * spec_.n_types + found.type, found.r2);
}

// Mask of those that are edges of list k, as far as its own limits go.
at::Tensor DeviceGraph::kept(std::size_t k, const Members &members) const
{
  const NeighborSpec &spec = *nodes_[k].spec;
  at::Tensor mask = reached(spec, members.r2);
  if (may_drop(spec)) mask = mask.logical_and(members.place.lt(spec.sel));
  if (may_drop_by_type(spec))
    mask = mask.logical_and(members.place_in_type.lt(limits_[k].sel_by_type.index_select(0, members.type)));
  if (limits_[k].allowed.defined())
    mask = mask.logical_and(limits_[k].allowed.index_select(0, members.type_pair));
  return mask;
}

void DeviceGraph::fill_outermost()
{
  const at::Tensor index = kept(0, members_[0]).nonzero().squeeze(1);
  members_[0].select(index);
  for (at::Tensor *t : {&tensors_.displacements, &tensors_.neighbor, &edge_atom_, &edge_center_atom_})
    *t = t->index_select(0, index);
  tensors_.center = members_[0].center;
}

void DeviceGraph::fill_inner(std::size_t k)
{
  members_[k] = members_[nodes_[k].parent];
  const at::Tensor index = kept(k, members_[k]).nonzero().squeeze(1);
  members_[k].select(index);
  tensors_.lists[k].edge = index;
}

// The n x n block of every centre: each edge meets each edge of the same centre.
PairTensors DeviceGraph::all_pairs(const at::Tensor &center) const
{
  const at::Tensor first = row_pointer(center, piece_.size());
  const at::Tensor partners = first.diff().index_select(0, center);
  PairTensors out;
  out.ptr = at::cat({at::zeros({1}, partners.options()), partners.cumsum(0)});
  out.ij = at::repeat_interleave(partners);
  const at::Tensor block = first.index_select(0, center) - out.ptr.narrow(0, 0, center.size(0));
  out.ik = at::arange(out.ij.size(0), partners.options()) + block.index_select(0, out.ij);
  return out;
}

const double *DeviceGraph::to_host(const at::Tensor &device_tensor, at::Tensor &host) const
{
  host = device_tensor.to(at::kCPU, at::kDouble).contiguous();
  return host.const_data_ptr<double>();
}

void DeviceGraph::begin(Want want)
{
  const c10::InferenceMode inference;
  const auto options = at::TensorOptions(at::kDouble).device(device_);
  want_ = want;
  values_ = at::Tensor();
  forces_ = at::Tensor();
  virial_ = at::zeros({9}, options);
  if (want.atom_virial) atom_virial_ = at::zeros({n_atoms_, 9}, options);
}

void DeviceGraph::add(const ModelOutput &output)
{
  const c10::InferenceMode inference;
  if (output.atomic.defined()) keep_rows(output.atomic, piece_, list_.n_centers, values_);
  const at::Tensor &g = output.edge_gradient, &d = tensors_.displacements;
  if (!g.defined()) return;
  if (!forces_.defined()) forces_ = at::zeros({n_atoms_, 3}, g.options());
  forces_.index_add_(0, edge_center_atom_, g).index_add_(0, edge_atom_, g, -1.0);
  if (want_.virial) virial_ -= at::mm(g.t(), d).view({9});
  if (!want_.atom_virial) return;
  const at::Tensor terms = (g.unsqueeze(2) * d.unsqueeze(1)).view({-1, 9});
  atom_virial_.index_add_(0, edge_atom_, terms, -1.0);
}

void DeviceGraph::add(const LongRange &output)
{
  const c10::InferenceMode inference;
  values_ = values_ + output.atomic_energy;
  forces_.index_add_(0, own_atom_, output.forces);
  if (want_.virial) virial_ += output.virial;
  if (want_.atom_virial) atom_virial_.index_add_(0, own_atom_, output.atom_virial);
}

const Response &DeviceGraph::gather()
{
  const c10::InferenceMode inference;
  response_ = Response();
  if (want_.atomic_values) response_.atomic_values = to_host(values_, host_values_);
  if (!forces_.defined()) return response_;
  const double *sums = to_host(at::cat({values_.sum().view({1}), virial_}), host_sums_);
  response_.energy = sums[0];
  std::copy(sums + 1, sums + 10, response_.virial);
  response_.forces = to_host(forces_, host_forces_);
  if (want_.atom_virial) response_.atom_virial = to_host(atom_virial_, host_atom_virial_);
  return response_;
}

}    // namespace dpsim
