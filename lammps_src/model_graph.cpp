#include "model_graph.h"

#include "graph_tensors.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

namespace dpsim {
namespace {

template <typename T> at::Tensor wrap(std::vector<T> &v, at::IntArrayRef sizes, at::ScalarType type)
{
  if (v.empty()) return at::empty(sizes, type);
  return at::from_blob(v.data(), sizes, type);
}

at::Tensor wrap(std::vector<std::int64_t> &v)
{
  return wrap(v, {static_cast<std::int64_t>(v.size())}, at::kLong);
}

// Loops on the host; tensors are views of the vectors.
class HostGraph : public ModelGraph {
 public:
  explicit HostGraph(const CutoffRule &rule) : rule_(rule) {}

  void renew(const PairList &list, std::vector<std::int64_t> row,
             std::vector<std::int64_t> row_types) override
  {
    const c10::InferenceMode inference;
    list_ = list;
    row_ = std::move(row);
    row_types_ = std::move(row_types);
    tensors_.row_types = wrap(row_types_);
    tensors_.types = tensors_.row_types.narrow(0, 0, list.n_centers);
    tensors_.frame = at::zeros({list.n_centers}, at::kLong);
  }

  const GraphTensors &update(const double *positions) override
  {
    const c10::InferenceMode inference;
    build_graph(rule_, list_, positions, row_.data(), row_types_.data(), graph_);
    tensors_.displacements = wrap(graph_.displacements, {graph_.n_edges(), 3}, at::kDouble);
    tensors_.center = wrap(graph_.center);
    tensors_.neighbor = wrap(graph_.neighbor);
    tensors_.edge_ptr = wrap(graph_.edge_ptr);
    tensors_.angle_edge = wrap(graph_.angle_edge);
    tensors_.angle_ij = wrap(graph_.angle_ij);
    tensors_.angle_ik = wrap(graph_.angle_ik);
    tensors_.angle_ptr = wrap(graph_.angle_ptr);
    return tensors_;
  }

  const Response &gather(const ModelOutput &output, Want want) override
  {
    const c10::InferenceMode inference;
    energy_ = output.atomic_energy.contiguous();
    gradient_ = output.edge_gradient.contiguous();
    forces_.assign(3 * row_.size(), 0.0);
    if (want.atom_virial) atom_virial_.assign(9 * row_.size(), 0.0);
    response_ = Response();
    response_.atomic_energy = energy_.const_data_ptr<double>();
    for (std::int64_t i = 0; i < list_.n_centers; ++i) response_.energy += response_.atomic_energy[i];
    scatter_gradient(graph_, list_.centers, gradient_.const_data_ptr<double>(), forces_.data(),
                     want.virial ? response_.virial : nullptr,
                     want.atom_virial ? atom_virial_.data() : nullptr);
    response_.forces = forces_.data();
    response_.atom_virial = want.atom_virial ? atom_virial_.data() : nullptr;
    return response_;
  }

 private:
  CutoffRule rule_;
  PairList list_;
  std::vector<std::int64_t> row_, row_types_;
  Graph graph_;
  GraphTensors tensors_;
  at::Tensor energy_, gradient_;
  std::vector<double> forces_, atom_virial_;
  Response response_;
};

// Slot of each edge among those of its centre, nearest first; ties in the order given.
//   center (E) ascending, pointer (N+1) its CSR, r2 (E)
at::Tensor slots(const at::Tensor &center, const at::Tensor &pointer, const at::Tensor &r2)
{
  const at::Tensor by_distance = at::argsort(r2, /*stable=*/true, 0, /*descending=*/false);
  const at::Tensor by_center =
      at::argsort(center.index_select(0, by_distance), /*stable=*/true, 0, /*descending=*/false);
  const at::Tensor order = by_distance.index_select(0, by_center);
  const at::Tensor place = at::arange(center.size(0), center.options()) -
                           pointer.index_select(0, center.index_select(0, order));
  return at::empty_like(place).scatter_(0, order, place);
}

at::Tensor row_pointer(const at::Tensor &center, std::int64_t n)
{
  return at::searchsorted(center, at::arange(n + 1, center.options()));
}

// Tensor operations on the model's device.
class DeviceGraph : public ModelGraph {
 public:
  DeviceGraph(const CutoffRule &rule, const at::Device &device) : rule_(rule), device_(device)
  {
    const c10::InferenceMode inference;
    if (rule.excluded.empty()) return;
    at::Tensor table = at::empty({rule.n_types, rule.n_types}, at::kBool);
    std::copy(rule.excluded.begin(), rule.excluded.end(), table.data_ptr<bool>());
    allowed_ = table.logical_not().to(device_);
  }

  void renew(const PairList &list, std::vector<std::int64_t> row,
             std::vector<std::int64_t> row_types) override;
  const GraphTensors &update(const double *positions) override;
  const Response &gather(const ModelOutput &output, Want want) override;

 private:
  void select(const at::Tensor &kept);
  void limit_edges();
  void find_angle_edges();
  void exclude();
  void find_angles();
  at::Tensor to_device(const std::vector<std::int64_t> &v) const;
  const double *to_host(const at::Tensor &device_tensor, at::Tensor &host) const;

  CutoffRule rule_;
  at::Device device_;
  at::Tensor allowed_;                                   // (T,T) bool or undefined
  std::int64_t n_atoms_ = 0, n_centers_ = 0, most_ = 0;  // most_: largest number of candidates
  at::Tensor center_atom_, far_row_, far_atom_, near_row_;    // (candidates)
  at::Tensor staging_, r2_, edge_atom_, edge_center_atom_, angle_mask_;
  GraphTensors tensors_;
  at::Tensor host_energy_, host_forces_, host_atom_virial_, host_sums_;
  Response response_;
};

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
  for (std::int64_t c = 0; c < list.n_centers; ++c) {
    const int atom = list.centers[c];
    const std::size_t before = near.size();
    for (int k = 0; k < list.n_neighbors[atom]; ++k) {
      const int other = list.neighbors[atom][k] & list.mask;
      if (row[other] < 0) continue;
      near.push_back(c);
      near_atom.push_back(atom);
      far.push_back(row[other]);
      far_atom.push_back(other);
    }
    most_ = std::max<std::int64_t>(most_, near.size() - before);
  }
  n_atoms_ = static_cast<std::int64_t>(row.size());
  n_centers_ = list.n_centers;
  near_row_ = to_device(near);
  center_atom_ = to_device(near_atom);
  far_row_ = to_device(far);
  far_atom_ = to_device(far_atom);
  tensors_.row_types = to_device(row_types);
  tensors_.types = tensors_.row_types.narrow(0, 0, n_centers_);
  tensors_.frame = at::zeros({n_centers_}, tensors_.types.options());
  const auto host = at::TensorOptions().dtype(at::kDouble).pinned_memory(!device_.is_cpu());
  staging_ = at::empty({n_atoms_, 3}, host);
}

// Keeps these edges (bool mask) of the current ones.
void DeviceGraph::select(const at::Tensor &kept)
{
  const at::Tensor index = kept.nonzero().squeeze(1);
  for (at::Tensor *t : {&tensors_.displacements, &tensors_.center, &tensors_.neighbor, &r2_,
                        &edge_atom_, &edge_center_atom_, &angle_mask_})
    if (t->defined()) *t = t->index_select(0, index);
}

const GraphTensors &DeviceGraph::update(const double *positions)
{
  const c10::InferenceMode inference;
  std::copy(positions, positions + 3 * n_atoms_, staging_.data_ptr<double>());
  const at::Tensor x = staging_.to(device_, /*non_blocking=*/true);
  angle_mask_ = at::Tensor();
  tensors_.center = near_row_;
  tensors_.neighbor = far_row_;
  edge_atom_ = far_atom_;
  edge_center_atom_ = center_atom_;
  tensors_.displacements = x.index_select(0, far_atom_) - x.index_select(0, center_atom_);
  r2_ = tensors_.displacements.square().sum(1);
  select(r2_.le(rule_.cutoff * rule_.cutoff));
  limit_edges();
  find_angle_edges();
  exclude();
  tensors_.edge_ptr = row_pointer(tensors_.center, n_centers_);
  find_angles();
  return tensors_;
}

void DeviceGraph::limit_edges()
{
  if (most_ <= rule_.e_sel) return;
  const at::Tensor pointer = row_pointer(tensors_.center, n_centers_);
  select(slots(tensors_.center, pointer, r2_).lt(rule_.e_sel));
}

void DeviceGraph::find_angle_edges()
{
  angle_mask_ = r2_.lt(rule_.a_rcut * rule_.a_rcut);
  if (most_ <= rule_.a_sel) return;
  const at::Tensor pointer = row_pointer(tensors_.center, n_centers_);
  angle_mask_ = angle_mask_.logical_and(slots(tensors_.center, pointer, r2_).lt(rule_.a_sel));
}

void DeviceGraph::exclude()
{
  if (!allowed_.defined()) return;
  const at::Tensor a = tensors_.types.index_select(0, tensors_.center);
  const at::Tensor b = tensors_.row_types.index_select(0, tensors_.neighbor);
  select(allowed_.view({-1}).index_select(0, a * rule_.n_types + b));
}

// The n x n block of every centre: angle-edge b meets each angle-edge of the same centre.
void DeviceGraph::find_angles()
{
  tensors_.angle_edge = angle_mask_.nonzero().squeeze(1);
  const at::Tensor center = tensors_.center.index_select(0, tensors_.angle_edge);
  const at::Tensor first = row_pointer(center, n_centers_);
  const at::Tensor partners = first.diff().index_select(0, center);
  tensors_.angle_ptr = at::cat({at::zeros({1}, partners.options()), partners.cumsum(0)});
  tensors_.angle_ij = at::repeat_interleave(partners);
  const at::Tensor block = first.index_select(0, center) - tensors_.angle_ptr.narrow(0, 0, center.size(0));
  tensors_.angle_ik = at::arange(tensors_.angle_ij.size(0), partners.options()) +
                      block.index_select(0, tensors_.angle_ij);
}

const double *DeviceGraph::to_host(const at::Tensor &device_tensor, at::Tensor &host) const
{
  host = device_tensor.to(at::kCPU, at::kDouble).contiguous();
  return host.const_data_ptr<double>();
}

const Response &DeviceGraph::gather(const ModelOutput &output, Want want)
{
  const c10::InferenceMode inference;
  const at::Tensor &g = output.edge_gradient, &d = tensors_.displacements;
  const at::Tensor forces = at::zeros({n_atoms_, 3}, g.options())
                                .index_add_(0, edge_center_atom_, g)
                                .index_add_(0, edge_atom_, g, -1.0);
  response_ = Response();
  const at::Tensor virial = want.virial ? at::mm(g.t(), d).neg().view({9}) : at::zeros({9}, g.options());
  const double *sums = to_host(at::cat({output.atomic_energy.sum().view({1}), virial}), host_sums_);
  response_.energy = sums[0];
  std::copy(sums + 1, sums + 10, response_.virial);
  response_.forces = to_host(forces, host_forces_);
  if (want.atom_energy) response_.atomic_energy = to_host(output.atomic_energy, host_energy_);
  if (want.atom_virial) {
    const at::Tensor terms = (g.unsqueeze(2) * d.unsqueeze(1)).view({-1, 9});
    const at::Tensor sum = at::zeros({n_atoms_, 9}, g.options()).index_add_(0, edge_atom_, terms, -1.0);
    response_.atom_virial = to_host(sum, host_atom_virial_);
  }
  return response_;
}

}    // namespace

std::unique_ptr<ModelGraph> ModelGraph::make(const CutoffRule &rule, const std::string &device,
                                             bool tensor_path)
{
  if (device == "cpu" && !tensor_path) return std::make_unique<HostGraph>(rule);
  return std::make_unique<DeviceGraph>(rule, at::Device(device));
}

}    // namespace dpsim
