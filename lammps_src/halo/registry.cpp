#include "halo/registry.h"

#include <ATen/Functions.h>
#include <c10/util/Exception.h>

#include <map>
#include <mutex>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace dpsim {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<int64_t, HaloExchange *> exchanges;
  int64_t next = 1;
};

// Never destroyed: a pair style may unregister while the process exits.
Registry &registry() {
  static auto *instance = new Registry;
  return *instance;
}

HaloExchange &find(int64_t handle) {
  auto &all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  auto found = all.exchanges.find(handle);
  TORCH_CHECK(found != all.exchanges.end(), "dpsim halo exchange: no exchange is registered under handle ", handle,
              " (0 means one process; others come from halo_register)");
  return *found->second;
}

int64_t handle_of(const at::Tensor &plan) {
  TORCH_CHECK(plan.is_cpu() && plan.scalar_type() == at::kLong && plan.numel() == 1,
              "dpsim halo exchange: plan is ", plan.toString(), " with ", plan.numel(), " elements, expected one int64 on the CPU");
  return *plan.const_data_ptr<int64_t>();
}

void check_rows(const char *name, const at::Tensor &given, const at::Tensor &reference) {
  TORCH_CHECK(given.dim() > 0 && reference.dim() > 0, name, ": tensors without rows");
}

}  // namespace

HaloExchange::~HaloExchange() = default;

int64_t halo_register(HaloExchange *exchange) {
  auto &all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.exchanges[all.next] = exchange;
  return all.next++;
}

void halo_unregister(int64_t handle) {
  auto &all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.exchanges.erase(handle);
}

at::Tensor halo_extend(const at::Tensor &h, const at::Tensor &row_ref, const at::Tensor &plan) {
  check_rows("dpsim::halo_extend", h, row_ref);
  const int64_t handle = handle_of(plan), rows = row_ref.size(0);
  if (handle != 0) return find(handle).extend(h.contiguous(), rows);
  TORCH_CHECK(h.size(0) == rows, "dpsim::halo_extend: ", h.size(0), " owned rows but ", rows,
              " feature rows; without a halo plan (handle 0) they must be equal");
  return h.clone(at::MemoryFormat::Contiguous);
}

at::Tensor halo_fold(const at::Tensor &g, const at::Tensor &owned_ref, const at::Tensor &plan) {
  check_rows("dpsim::halo_fold", g, owned_ref);
  const int64_t handle = handle_of(plan), owned = owned_ref.size(0);
  if (handle != 0) return find(handle).fold(g.contiguous(), owned);
  TORCH_CHECK(g.size(0) == owned, "dpsim::halo_fold: ", g.size(0), " feature rows but ", owned,
              " owned rows; without a halo plan (handle 0) they must be equal");
  return g.clone(at::MemoryFormat::Contiguous);
}

}  // namespace dpsim

extern "C" int dpsim_keep_memory() {
#ifdef __GLIBC__
  // A threshold of -1 switches trimming off; the pad makes the heap grow in few large steps.
  const int mmap_off = mallopt(M_MMAP_MAX, 0);
  const int trim_off = mallopt(M_TRIM_THRESHOLD, -1);
  const int top_pad = mallopt(M_TOP_PAD, 64 << 20);
  return mmap_off && trim_off && top_pad;
#else
  return 0;
#endif
}
