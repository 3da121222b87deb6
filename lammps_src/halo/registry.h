// Halo exchange of feature rows between processes: the interface that the operators
// dpsim::halo_extend and dpsim::halo_fold call, without any MPI in it.
//
// Feature rows of a process are laid out as [owned atoms | remote atoms]. An implementation
// (libdpsim_halo, with MPI) registers itself and gives the handle to the model as its `plan`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#define DPSIM_EXPORT __attribute__((visibility("default")))

namespace dpsim {

class DPSIM_EXPORT HaloExchange {
 public:
  virtual ~HaloExchange();

  // h (owned, ...) -> (rows, ...): the owned rows, followed by the remote ones as their owners
  // hold them. Collective: every process calls it the same number of times, in the same order.
  virtual at::Tensor extend(const at::Tensor &h, int64_t rows) = 0;

  // Adjoint of extend. g (rows, ...) -> (owned, ...): g of the owned rows, plus what other
  // processes hold for them as remote rows. Collective.
  virtual at::Tensor fold(const at::Tensor &g, int64_t owned) = 0;
};

// Makes an exchange known and returns its handle (1 or more; 0 means "one process").
// The caller keeps ownership and unregisters it before destroying it. Both are thread-safe.
DPSIM_EXPORT int64_t halo_register(HaloExchange *exchange);
DPSIM_EXPORT void halo_unregister(int64_t handle);

// The operators themselves; `plan` is an int64[1] CPU tensor with the handle.
DPSIM_EXPORT at::Tensor halo_extend(const at::Tensor &h, const at::Tensor &row_ref, const at::Tensor &plan);
DPSIM_EXPORT at::Tensor halo_fold(const at::Tensor &g, const at::Tensor &owned_ref, const at::Tensor &plan);

}  // namespace dpsim

extern "C" {
// Tells glibc's allocator to keep freed memory instead of returning it to the kernel; tensors of
// megabytes are then reused without page faults. Returns 1 if it took effect, 0 elsewhere.
DPSIM_EXPORT int dpsim_keep_memory();
}
