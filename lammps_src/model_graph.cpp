#include "model_graph.h"

#include "device_graph.h"
#include "graph_tensors.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cstddef>

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
  explicit HostGraph(const NeighborSpec &spec) : spec_(spec) {}

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
    build_graph(spec_, list_, positions, row_.data(), row_types_.data(), graph_);
    tensors_.displacements = wrap(graph_.displacements, {graph_.n_edges(), 3}, at::kDouble);
    tensors_.center = wrap(graph_.center);
    tensors_.neighbor = wrap(graph_.neighbor);
    tensors_.lists.resize(graph_.lists.size());
    for (std::size_t k = 0; k < graph_.lists.size(); ++k) wrap_list(graph_.lists[k], k > 0, tensors_.lists[k]);
    return tensors_;
  }

  const Response &gather(const ModelOutput &output, Want want) override
  {
    const c10::InferenceMode inference;
    energy_ = output.atomic.contiguous();
    gradient_ = output.edge_gradient.contiguous();
    forces_.assign(3 * row_.size(), 0.0);
    if (want.atom_virial) atom_virial_.assign(9 * row_.size(), 0.0);
    response_ = Response();
    response_.atomic_energy = energy_.const_data_ptr<double>();
    for (std::int64_t i = 0; i < list_.n_centers; ++i) response_.energy += response_.atomic_energy[i];
    scatter_gradient(graph_, list_.centers, gradient_.const_data_ptr<double>(), forces_.data(),
                     want.virial ? response_.virial : nullptr,
                     want.atom_virial ? atom_virial_.data() : nullptr);
    if (output.forces.defined()) add_to_centers(output, want);
    response_.forces = forces_.data();
    response_.atom_virial = want.atom_virial ? atom_virial_.data() : nullptr;
    return response_;
  }

 private:
  void add_to_centers(const ModelOutput &output, Want want)
  {
    add_rows(output.forces, 3, forces_);
    if (want.atom_virial) add_rows(output.atom_virial, 9, atom_virial_);
    const at::Tensor virial = output.virial.contiguous();
    for (int k = 0; k < 9 && want.virial; ++k) response_.virial[k] += virial.const_data_ptr<double>()[k];
  }

  // Adds rows (N,n) of the centres to those of all atoms.
  void add_rows(const at::Tensor &rows, int n, std::vector<double> &sums) const
  {
    const at::Tensor all = rows.contiguous();
    const double *values = all.const_data_ptr<double>();
    for (std::int64_t c = 0; c < list_.n_centers; ++c)
      for (int k = 0; k < n; ++k) sums[n * static_cast<std::size_t>(list_.centers[c]) + k] += values[n * c + k];
  }

  static void wrap_list(EdgeList &list, bool inner, ListTensors &out)
  {
    if (inner) out.edge = wrap(list.edge);
    out.edge_ptr = wrap(list.edge_ptr);
    if (!list.pair_ptr.empty()) out.pairs = {wrap(list.pair_ij), wrap(list.pair_ik), wrap(list.pair_ptr)};
  }

  NeighborSpec spec_;
  PairList list_;
  std::vector<std::int64_t> row_, row_types_;
  Graph graph_;
  GraphTensors tensors_;
  at::Tensor energy_, gradient_;
  std::vector<double> forces_, atom_virial_;
  Response response_;
};

}    // namespace

GraphSizes sizes_of(const GraphTensors &tensors)
{
  GraphSizes out{tensors.row_types.size(0), tensors.center.size(0), 0};
  for (const auto &list : tensors.lists)
    if (list.pairs.ij.defined()) out.pairs += list.pairs.ij.size(0);
  return out;
}

std::unique_ptr<ModelGraph> ModelGraph::make(const NeighborSpec &spec, const std::string &device,
                                             bool tensor_path)
{
  if (device == "cpu" && !tensor_path) return std::make_unique<HostGraph>(spec);
  return std::make_unique<DeviceGraph>(spec, device);
}

}    // namespace dpsim
