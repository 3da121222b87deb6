// Plain C entries of libdpsim_halo, for tests through ctypes.
#pragma once

#include <cstdint>

extern "C" {

// The graph of build_graph, or with `tensor_path` that of the GPU's code run on the CPU. Arguments as
// there; the neighbour list is CSR over the n_atoms atoms. Returns an object for the calls below.
void *dpsim_graph_new(double cutoff, std::int64_t e_sel, double a_rcut, std::int64_t a_sel, std::int64_t n_types,
                      const char *excluded, std::int64_t n_atoms, const double *positions,
                      const std::int64_t *row, std::int64_t n_rows, const std::int64_t *row_types,
                      std::int64_t n_centers, const int *centers, const int *n_neighbors, int *const *neighbors,
                      int tensor_path);
// Field k in the order of the model's inputs: its length, and a copy (doubles for field 0).
std::int64_t dpsim_graph_size(void *graph, int field);
void dpsim_graph_copy(void *graph, int field, void *out);
// Sums an edge gradient (E,3): forces (n_atoms,3), virial (9), atom_virial (n_atoms,9), all set.
void dpsim_graph_scatter(void *graph, const double *gradient, double *forces, double *virial, double *atom_virial);
void dpsim_graph_delete(void *graph);

// A halo plan over the communicator with this Fortran handle. Returns an object; slot (n_ghosts) is set.
void *dpsim_halo_new(int comm, std::int64_t owned, std::int64_t n_ghosts, const int *owner_rank,
                     const std::int64_t *owner_row, std::int64_t *slot);
std::int64_t dpsim_halo_handle(void *halo);
std::int64_t dpsim_halo_remote_rows(void *halo);
std::int64_t dpsim_halo_bytes_sent(void *halo);
void dpsim_halo_delete(void *halo);
}
