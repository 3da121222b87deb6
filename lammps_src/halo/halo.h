// Exchange of feature rows between MPI ranks: who needs which atoms of whom, found once per
// neighbour list, and the exchange itself, which the model calls through dpsim::halo_extend.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dpsim {

enum class HaloRoute { automatic, device, host };
HaloRoute route_of(const std::string &word);    // "auto", "device" or "host"

// MPI's own word on device memory: built with support for it, and switched on. Local; after MPI_Init.
bool mpi_claims_device_memory();

// Every method is collective over the communicator unless it says otherwise.
class Halo {
 public:
  explicit Halo(MPI_Comm comm);    // local; the communicator must outlive the object
  ~Halo();                         // local
  Halo(const Halo &) = delete;
  Halo &operator=(const Halo &) = delete;

  // Decides whether MPI gets device memory or a pinned copy on the host. `device` as torch writes
  // it ("cpu", "cuda:0"). automatic: device memory if MPI says that it can take it and a trial
  // exchange arrives intact on all ranks. Throws std::runtime_error (on all ranks alike) if
  // `device` was asked for and is impossible. Returns what was chosen, in words.
  std::string choose_route(HaloRoute wanted, const std::string &device);

  // Makes the plan. Ghost g is a copy of row owner_row[g] of rank owner_rank[g]; images of one atom
  // share a row. slot[g] becomes its feature row: owner_row[g] if this rank owns it, else
  // owned + its place among the remote rows. Ghosts with owner_row < 0 get slot -1.
  void plan(std::int64_t owned, const std::vector<int> &owner_rank,
            const std::vector<std::int64_t> &owner_row, std::vector<std::int64_t> &slot);

  // All local. The handle is what the model is given as its plan.
  std::int64_t handle() const;
  std::int64_t remote_rows() const;
  std::int64_t bytes_sent() const;    // by this rank since the object was made
  std::int64_t exchanges() const;     // calls of extend and fold since the object was made
  std::int64_t buffer_bytes() const;  // memory of the buffers, which are kept from one exchange to the next

  // Bytes sent by this rank in each exchange since begin(), in their order: those of the layers, then those of
  // their derivatives. Local.
  void begin();
  const std::vector<std::int64_t> &sent() const;

  // Messages from tensors on the CPU take the way of those from a GPU, through host copies (tests). Local.
  void stage_always();

 private:
  class Exchange;
  std::unique_ptr<Exchange> exchange_;
};

}    // namespace dpsim
