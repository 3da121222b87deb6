#include "model/c_api.h"

#include "model/device_choice.h"
#include "model/graph_tensors.h"
#include "halo/halo.h"
#include "model/json_value.h"
#include "model/model_graph.h"
#include "model/model_info.h"
#include "system/spin_system.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct OwnedGraph {
  std::unique_ptr<dpsim::ModelGraph> graph;
  std::unique_ptr<dpsim::SpinSystem> spin;
  std::vector<at::Tensor> fields;
  std::int64_t n_atoms = 0;
};

// What a function returns or, if it throws, the error.
template <typename F> const char *said(F function)
{
  static std::string text;
  try {
    text = function();
  } catch (const std::exception &e) {
    text = e.what();
  }
  return text.c_str();
}

dpsim::PairList listed(std::int64_t n_centers, const int *centers, const int *n_neighbors, int *const *neighbors)
{
  dpsim::PairList list;
  list.n_centers = n_centers;
  list.centers = centers;
  list.n_neighbors = n_neighbors;
  list.neighbors = neighbors;
  return list;
}

OwnedGraph &owned(void *graph) { return *static_cast<OwnedGraph *>(graph); }

}    // namespace

void *dpsim_graph_new(const char *neighbors_json, std::int64_t n_types, std::int64_t n_atoms, const double *positions,
                      const double *offsets, const std::int64_t *row, std::int64_t n_rows,
                      const std::int64_t *row_types, std::int64_t n_centers, const int *centers,
                      const int *n_neighbors, int *const *neighbors, int tensor_path)
{
  auto made = std::make_unique<OwnedGraph>();
  try {
    const auto spec = dpsim::parse_neighbors(dpsim::JsonValue::parse(neighbors_json), n_types);
    made->graph = dpsim::ModelGraph::make(spec, "cpu", {}, tensor_path != 0);
  } catch (const std::runtime_error &) {
    return nullptr;
  }
  made->n_atoms = n_atoms;
  dpsim::PairList list = listed(n_centers, centers, n_neighbors, neighbors);
  std::int64_t n = n_atoms;
  if (offsets) {
    made->spin = std::make_unique<dpsim::SpinSystem>();
    list = made->spin->renew(list, n_atoms);
    positions = made->spin->place(positions, offsets);
    n = 2 * n_atoms;
  }
  made->graph->renew(list, {row, row + n}, {row_types, row_types + n_rows});
  made->graph->place(positions);
  made->graph->begin({true, true, true});
  made->fields = made->graph->edges({0, list.n_centers}).in_order();
  return made.release();
}

void dpsim_graph_choose(void *graph, std::int64_t first, std::int64_t end)
{
  owned(graph).fields = owned(graph).graph->edges({first, end}).in_order();
}

std::int64_t dpsim_graph_fields(void *graph) { return static_cast<std::int64_t>(owned(graph).fields.size()); }

std::int64_t dpsim_graph_size(void *graph, int field) { return owned(graph).fields[field].numel(); }

void dpsim_graph_copy(void *graph, int field, void *out)
{
  const at::Tensor t = owned(graph).fields[field].contiguous();
  const auto *bytes = static_cast<const char *>(t.const_data_ptr());
  std::copy(bytes, bytes + t.numel() * static_cast<std::int64_t>(t.element_size()), static_cast<char *>(out));
}

void dpsim_graph_add(void *graph, const double *gradient)
{
  auto &own = owned(graph);
  const auto n_edges = own.fields[0].size(0);
  dpsim::ModelOutput output;
  output.atomic = at::zeros({own.fields[1].size(0)}, at::kDouble);
  output.edge_gradient = at::empty({n_edges, 3}, at::kDouble);
  std::copy(gradient, gradient + 3 * n_edges, output.edge_gradient.data_ptr<double>());
  own.graph->add(output);
}

void dpsim_graph_sums(void *graph, double *forces, double *virial, double *atom_virial, double *virtual_forces)
{
  auto &own = owned(graph);
  const auto &response = own.graph->gather();
  const auto n = own.n_atoms;
  std::vector<double> sum(response.virial, response.virial + 9);
  std::vector<double> atoms(response.atom_virial, response.atom_virial + 9 * (own.spin ? 2 * n : n));
  if (own.spin) {
    own.spin->fold(response.forces, sum.data(), atoms.data());
    std::copy_n(own.spin->virtual_forces(), 3 * n, virtual_forces);
  }
  std::copy_n(own.spin ? own.spin->forces() : response.forces, 3 * n, forces);
  std::copy_n(sum.data(), 9, virial);
  std::copy_n(atoms.data(), 9 * n, atom_virial);
}

std::int64_t dpsim_pieces(const char *neighbors_json, std::int64_t n_types, const double *positions,
                          const std::int64_t *row, std::int64_t n_centers, const int *centers, const int *n_neighbors,
                          int *const *neighbors, std::int64_t atoms, std::int64_t items, std::int64_t *ends)
{
  const auto spec = dpsim::parse_neighbors(dpsim::JsonValue::parse(neighbors_json), n_types);
  const auto list = listed(n_centers, centers, n_neighbors, neighbors);
  const auto pieces = dpsim::divide_centers({atoms, items}, spec, list, positions, row);
  for (std::size_t k = 0; k < pieces.size(); ++k) ends[k] = pieces[k].end;
  return static_cast<std::int64_t>(pieces.size());
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
std::int64_t dpsim_halo_buffer_bytes(void *halo) { return static_cast<dpsim::Halo *>(halo)->buffer_bytes(); }
void dpsim_halo_stage_always(void *halo) { static_cast<dpsim::Halo *>(halo)->stage_always(); }

const char *dpsim_halo_route(void *halo, const char *wanted, const char *device)
{
  return said([&] { return static_cast<dpsim::Halo *>(halo)->choose_route(dpsim::route_of(wanted), device); });
}

int dpsim_mpi_claims_device_memory() { return dpsim::mpi_claims_device_memory(); }

const char *dpsim_choose_gpu(const char *made_for, const char *wanted, int n_devices, int local_rank)
{
  return said([&] {
    dpsim::check_device(made_for, wanted);
    return std::to_string(dpsim::choose_gpu(n_devices, local_rank));
  });
}

void dpsim_halo_delete(void *halo) { delete static_cast<dpsim::Halo *>(halo); }
