#include "c_api.h"

#include "graph_tensors.h"
#include "halo.h"
#include "model_graph.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace {

struct OwnedGraph {
  std::unique_ptr<dpsim::ModelGraph> graph;
  dpsim::GraphTensors tensors;
  std::int64_t n_atoms = 0;

  const at::Tensor &field(int k) const
  {
    const auto &t = tensors;
    const at::Tensor *all[] = {&t.displacements, &t.types,      &t.row_types, &t.frame,
                               &t.center,        &t.neighbor,   &t.edge_ptr,  &t.angle_edge,
                               &t.angle_ij,      &t.angle_ik,   &t.angle_ptr};
    return *all[k];
  }
};

void copy_out(const double *from, std::int64_t n, double *to) { std::copy(from, from + n, to); }

}    // namespace

void *dpsim_graph_new(double cutoff, std::int64_t e_sel, double a_rcut, std::int64_t a_sel, std::int64_t n_types,
                      const char *excluded, std::int64_t n_atoms, const double *positions,
                      const std::int64_t *row, std::int64_t n_rows, const std::int64_t *row_types,
                      std::int64_t n_centers, const int *centers, const int *n_neighbors, int *const *neighbors,
                      int tensor_path)
{
  dpsim::CutoffRule rule{cutoff, e_sel, a_rcut, a_sel, n_types, {}};
  if (excluded) rule.excluded.assign(excluded, excluded + n_types * n_types);
  auto owned = std::make_unique<OwnedGraph>();
  owned->n_atoms = n_atoms;
  owned->graph = dpsim::ModelGraph::make(rule, "cpu", tensor_path != 0);
  dpsim::PairList list;
  list.n_centers = n_centers;
  list.centers = centers;
  list.n_neighbors = n_neighbors;
  list.neighbors = neighbors;
  owned->graph->renew(list, {row, row + n_atoms}, {row_types, row_types + n_rows});
  owned->tensors = owned->graph->update(positions);
  return owned.release();
}

std::int64_t dpsim_graph_size(void *graph, int field)
{
  return static_cast<OwnedGraph *>(graph)->field(field).numel();
}

void dpsim_graph_copy(void *graph, int field, void *out)
{
  const at::Tensor t = static_cast<OwnedGraph *>(graph)->field(field).contiguous();
  const auto *bytes = static_cast<const char *>(t.const_data_ptr());
  std::copy(bytes, bytes + t.numel() * static_cast<std::int64_t>(t.element_size()), static_cast<char *>(out));
}

void dpsim_graph_scatter(void *graph, const double *gradient, double *forces, double *virial, double *atom_virial)
{
  auto *owned = static_cast<OwnedGraph *>(graph);
  const auto n_edges = owned->tensors.center.size(0);
  dpsim::ModelOutput output;
  output.atomic_energy = at::zeros({owned->tensors.types.size(0)}, at::kDouble);
  output.edge_gradient = at::empty({n_edges, 3}, at::kDouble);
  std::copy(gradient, gradient + 3 * n_edges, output.edge_gradient.data_ptr<double>());
  const auto &response = owned->graph->gather(output, {true, true, true});
  copy_out(response.forces, 3 * owned->n_atoms, forces);
  copy_out(response.virial, 9, virial);
  copy_out(response.atom_virial, 9 * owned->n_atoms, atom_virial);
}

void dpsim_graph_delete(void *graph) { delete static_cast<OwnedGraph *>(graph); }

void *dpsim_halo_new(int comm, std::int64_t owned, std::int64_t n_ghosts, const int *owner_rank,
                     const std::int64_t *owner_row, std::int64_t *slot)
{
  auto halo = std::make_unique<dpsim::Halo>(MPI_Comm_f2c(comm));
  std::vector<std::int64_t> slots;
  halo->plan(owned, {owner_rank, owner_rank + n_ghosts}, {owner_row, owner_row + n_ghosts}, slots);
  std::copy(slots.begin(), slots.end(), slot);
  return halo.release();
}

std::int64_t dpsim_halo_handle(void *halo) { return static_cast<dpsim::Halo *>(halo)->handle(); }
std::int64_t dpsim_halo_remote_rows(void *halo) { return static_cast<dpsim::Halo *>(halo)->remote_rows(); }
std::int64_t dpsim_halo_bytes_sent(void *halo) { return static_cast<dpsim::Halo *>(halo)->bytes_sent(); }
void dpsim_halo_delete(void *halo) { delete static_cast<dpsim::Halo *>(halo); }
