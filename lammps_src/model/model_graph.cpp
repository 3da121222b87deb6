#include "model/model_graph.h"

#include "model/device_graph.h"
#include "model/electrostatics.h"
#include "model/graph_tensors.h"

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
  HostGraph(const NeighborSpec &spec, const PieceRule &rule) : ModelGraph(rule), spec_(spec) {}

  void renew(const PairList &list, std::vector<std::int64_t> row,
             std::vector<std::int64_t> row_types) override
  {
    const c10::InferenceMode inference;
    list_ = list;
    row_ = std::move(row);
    row_types_ = std::move(row_types);
    all_row_types_ = wrap(row_types_);
    types_ = all_row_types_.narrow(0, 0, list.n_centers);
    one_of_each_ = at::arange(spec_.n_types, at::kLong);
    pieces_.clear();
  }

  void place(const double *positions) override
  {
    positions_ = positions;
    if (pieces_.empty()) pieces_ = divide_centers(rule_, spec_, list_, positions, row_.data());
    is_current_ = false;
  }

  const at::Tensor &types() const override { return types_; }

  const GraphTensors &edges(const Piece &piece) override
  {
    if (is_current_ && piece == piece_) return tensors_;
    const c10::InferenceMode inference;
    piece_ = piece;
    is_current_ = true;
    build_graph(spec_, list_, positions_, row_.data(), row_types_.data(), piece, graph_);
    wrap_rows();
    tensors_.displacements = wrap(graph_.displacements, {graph_.n_edges(), 3}, at::kDouble);
    tensors_.center = wrap(graph_.center);
    tensors_.neighbor = wrap(graph_.neighbor);
    tensors_.lists.resize(graph_.lists.size());
    for (std::size_t k = 0; k < graph_.lists.size(); ++k) wrap_list(graph_.lists[k], k > 0, tensors_.lists[k]);
    return tensors_;
  }

  void begin(Want want) override
  {
    want_ = want;
    values_ = at::Tensor();
    forces_.assign(3 * row_.size(), 0.0);
    if (want.atom_virial) atom_virial_.assign(9 * row_.size(), 0.0);
    response_ = Response();
  }

  void add(const ModelOutput &output) override
  {
    const c10::InferenceMode inference;
    if (output.atomic.defined()) keep_rows(output.atomic, piece_, list_.n_centers, values_);
    if (!output.edge_gradient.defined()) return;
    const at::Tensor gradient = output.edge_gradient.contiguous();
    scatter_gradient(graph_, list_.centers + piece_.first, gradient.const_data_ptr<double>(), forces_.data(),
                     want_.virial ? response_.virial : nullptr, want_.atom_virial ? atom_virial_.data() : nullptr);
    response_.forces = forces_.data();
  }

  void add(const LongRange &output) override
  {
    const c10::InferenceMode inference;
    values_ = values_ + output.atomic_energy;
    add_rows(output.forces, 3, forces_);
    if (want_.atom_virial) add_rows(output.atom_virial, 9, atom_virial_);
    const at::Tensor virial = output.virial.contiguous();
    for (int k = 0; k < 9 && want_.virial; ++k) response_.virial[k] += virial.const_data_ptr<double>()[k];
  }

  const Response &gather() override
  {
    const c10::InferenceMode inference;
    values_ = values_.contiguous();
    response_.atomic_values = values_.const_data_ptr<double>();
    response_.energy = 0.0;
    for (std::int64_t i = 0; i < list_.n_centers && response_.forces; ++i)
      response_.energy += response_.atomic_values[i];
    response_.atom_virial = want_.atom_virial ? atom_virial_.data() : nullptr;
    return response_;
  }

 private:
  // Adds rows (N,n) of the centres to those of all atoms.
  void add_rows(const at::Tensor &rows, int n, std::vector<double> &sums) const
  {
    const at::Tensor all = rows.contiguous();
    const double *values = all.const_data_ptr<double>();
    for (std::int64_t c = 0; c < list_.n_centers; ++c)
      for (int k = 0; k < n; ++k) sums[n * static_cast<std::size_t>(list_.centers[c]) + k] += values[n * c + k];
  }

  void wrap_rows()
  {
    const bool is_whole = piece_.size() == list_.n_centers;
    tensors_.first = piece_.first;
    tensors_.n_all = list_.n_centers;
    tensors_.types = types_.narrow(0, piece_.first, piece_.size());
    tensors_.row_types = is_whole ? all_row_types_ : at::cat({tensors_.types, one_of_each_});
    tensors_.frame = at::zeros({piece_.size()}, at::kLong);
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
  at::Tensor all_row_types_, types_, one_of_each_;
  const double *positions_ = nullptr;
  Piece piece_;
  bool is_current_ = false;    // whether graph_ is that of piece_ where the atoms are now
  Graph graph_;
  GraphTensors tensors_;
  Want want_;
  at::Tensor values_;
  std::vector<double> forces_, atom_virial_;
  Response response_;
};

// Edges and pairs of a piece. On a CPU more were measured to save no time; a GPU needs more to be busy, how many was not
// measured.
constexpr std::int64_t CPU_ITEMS = 200000, GPU_ITEMS = 2000000;

}    // namespace

void keep_rows(const at::Tensor &rows, const Piece &piece, std::int64_t n_all, at::Tensor &all)
{
  if (piece.size() == n_all) {
    all = rows;
    return;
  }
  if (!all.defined()) {
    std::vector<std::int64_t> sizes = rows.sizes().vec();
    sizes[0] = n_all;
    all = at::empty(sizes, rows.options());
  }
  all.narrow(0, piece.first, piece.size()).copy_(rows);
}

PieceRule piece_rule(bool passes_messages, std::int64_t atoms, const std::string &device)
{
  if (passes_messages) return {};
  return {atoms, device == "cpu" ? CPU_ITEMS : GPU_ITEMS};
}

GraphSizes sizes_of(const GraphTensors &tensors)
{
  GraphSizes out{1, tensors.center.size(0), 0};
  for (const auto &list : tensors.lists)
    if (list.pairs.ij.defined()) out.pairs += list.pairs.ij.size(0);
  return out;
}

std::unique_ptr<ModelGraph> ModelGraph::make(const NeighborSpec &spec, const std::string &device,
                                             const PieceRule &rule, bool tensor_path)
{
  if (device == "cpu" && !tensor_path) return std::make_unique<HostGraph>(spec, rule);
  return std::make_unique<DeviceGraph>(spec, device, rule);
}

}    // namespace dpsim
