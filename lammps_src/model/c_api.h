// Plain C entries of libdpsim_halo, for tests through ctypes.
#pragma once

#include <cstdint>

extern "C" {

// The graph of build_graph, or with `tensor_path` that of the GPU's code run on the CPU. `neighbors_json` as
// in the metadata of a frozen model, the rest as for build_graph. With `offsets` (n_atoms,3) the graph is that
// of the doubled system (SpinSystem) of these atoms: then `row` has 2 n_atoms members. Returns an object for the
// calls below, or null if the JSON text is not what it should be.
void *dpsim_graph_new(const char *neighbors_json, std::int64_t n_types, std::int64_t n_atoms, const double *positions,
                      const double *offsets, const std::int64_t *row, std::int64_t n_rows,
                      const std::int64_t *row_types, std::int64_t n_centers, const int *centers,
                      const int *n_neighbors, int *const *neighbors, int tensor_path);
// Of all centres as of one piece; or, from the next call on, those of the centres [first, end) alone.
void dpsim_graph_choose(void *graph, std::int64_t first, std::int64_t end);
// Number of fields; of field k in the order of the model's inputs the length, and a copy (doubles for field 0).
std::int64_t dpsim_graph_fields(void *graph);
std::int64_t dpsim_graph_size(void *graph, int field);
void dpsim_graph_copy(void *graph, int field, void *out);
// Adds an edge gradient (E,3) of the chosen centres to the sums.
void dpsim_graph_add(void *graph, const double *gradient);
// The sums: forces (n_atoms,3), virial (9), atom_virial (n_atoms,9); of a doubled system also the forces on virtual
// atoms (n_atoms,3), which may be null otherwise.
void dpsim_graph_sums(void *graph, double *forces, double *virial, double *atom_virial, double *virtual_forces);
// Writes the ends of the pieces that a rule makes, of so many atoms (negative: of so many items) each, where the atoms
// of the list are; returns their number. `ends` has room for one more
// than there are centres.
std::int64_t dpsim_pieces(const char *neighbors_json, std::int64_t n_types, const double *positions,
                          const std::int64_t *row, std::int64_t n_centers, const int *centers, const int *n_neighbors,
                          int *const *neighbors, std::int64_t atoms, std::int64_t items, std::int64_t *ends);
void dpsim_graph_delete(void *graph);

// A halo plan over the communicator with this Fortran handle. Returns an object; slot (n_ghosts) is set.
void *dpsim_halo_new(int comm, std::int64_t owned, std::int64_t n_ghosts, const int *owner_rank,
                     const std::int64_t *owner_row, std::int64_t *slot);
std::int64_t dpsim_halo_handle(void *halo);
std::int64_t dpsim_halo_remote_rows(void *halo);
std::int64_t dpsim_halo_bytes_sent(void *halo);
std::int64_t dpsim_halo_buffer_bytes(void *halo);
// Messages of tensors on the CPU then take the way of those of a GPU, through host copies.
void dpsim_halo_stage_always(void *halo);
void dpsim_halo_delete(void *halo);

// What is decided about devices, as text: the route of messages for "auto", "device" or "host"; the number of the
// GPU of a rank, or why there is none (choose_gpu and check_device). Valid until the next call.
const char *dpsim_halo_route(void *halo, const char *wanted, const char *device);
int dpsim_mpi_claims_device_memory();
const char *dpsim_choose_gpu(const char *made_for, const char *wanted, int n_devices, int local_rank);
}
