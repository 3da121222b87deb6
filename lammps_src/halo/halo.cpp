#include "halo/halo.h"

#include "halo/registry.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <dlfcn.h>
#include <numeric>
#include <stdexcept>

namespace dpsim {
namespace {

constexpr int TAG = 7411;

// Rows of one buffer, grouped by the rank they go to or come from.
struct Parcels {
  std::vector<int> rank, count;
  std::int64_t rows = 0;

  void assign(const std::vector<int> &count_of_rank)
  {
    rank.clear();
    count.clear();
    rows = 0;
    for (std::size_t r = 0; r < count_of_rank.size(); ++r) {
      if (!count_of_rank[r]) continue;
      rank.push_back(static_cast<int>(r));
      count.push_back(count_of_rank[r]);
      rows += count_of_rank[r];
    }
  }
};

// Waits until the kernels that fill or read a tensor have finished. Needs no CUDA header.
void synchronize(const at::Device &device)
{
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl guard(device.type());
  guard.getStream(device).synchronize();
}

// Whether `action` returns true; an exception is a no.
template <typename F> bool succeeds(F action)
{
  try {
    return action();
  } catch (const std::exception &) {
    return false;
  }
}

// A buffer that grows and is never given back; views of its beginning are handed out.
class Buffer {
 public:
  at::Tensor view(at::IntArrayRef sizes, const at::TensorOptions &options)
  {
    const std::int64_t n =
        std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
    const std::int64_t bytes = n * static_cast<std::int64_t>(options.dtype().itemsize());
    if (!storage_.defined() || storage_.numel() < bytes || storage_.device() != options.device())
      storage_ = at::empty({bytes + bytes / 8 + 64}, options.dtype(at::kByte));
    return storage_.narrow(0, 0, bytes).view(options.dtype().toScalarType()).view(sizes);
  }
  std::int64_t bytes() const { return storage_.defined() ? storage_.numel() : 0; }

 private:
  at::Tensor storage_;
};

}    // namespace

HaloRoute route_of(const std::string &word)
{
  return word == "device" ? HaloRoute::device : word == "host" ? HaloRoute::host : HaloRoute::automatic;
}

bool mpi_claims_device_memory()
{
  using Query = int (*)();
  if (auto query = reinterpret_cast<Query>(dlsym(RTLD_DEFAULT, "MPIX_Query_cuda_support")))
    return query() == 1;
  using GpuQuery = int (*)(int, int *);    // MPIX_GPU_SUPPORT_CUDA is 0
  int yes = 0;
  if (auto query = reinterpret_cast<GpuQuery>(dlsym(RTLD_DEFAULT, "MPIX_GPU_query_support")))
    return query(0, &yes) == MPI_SUCCESS && yes;
  return false;
}

class Halo::Exchange : public HaloExchange {
 public:
  explicit Exchange(MPI_Comm comm) : comm_(comm)
  {
    MPI_Comm_rank(comm, &me_);
    MPI_Comm_size(comm, &size_);
    handle_ = halo_register(this);
  }
  ~Exchange() override { halo_unregister(handle_); }

  at::Tensor extend(const at::Tensor &h, std::int64_t rows) override;
  at::Tensor fold(const at::Tensor &g, std::int64_t owned) override;
  void plan(std::int64_t owned, const std::vector<int> &owner_rank,
            const std::vector<std::int64_t> &owner_row, std::vector<std::int64_t> &slot);
  bool trial(const at::Device &device);
  bool on_all_ranks(bool yes) const;
  std::int64_t buffer_bytes() const
  {
    return send_.bytes() + receive_.bytes() + pinned_send_.bytes() + pinned_receive_.bytes();
  }

  MPI_Comm comm_;
  int me_ = 0, size_ = 1;
  std::int64_t handle_ = 0, owned_ = 0, bytes_ = 0, calls_ = 0;
  bool stage_ = true;     // device tensors travel through the host
  bool stage_cpu_ = false;
  std::vector<std::int64_t> sent_;
  Parcels out_, in_;      // rows of mine that others need; rows of others that I need

 private:
  void exchange(const at::Tensor &sent, const Parcels &to, at::Tensor received, const Parcels &from);
  void transfer(const at::Tensor &sent, const Parcels &to, const at::Tensor &received,
                const Parcels &from);
  const at::Tensor &send_rows(const at::Device &device);
  void check(const char *what, std::int64_t found, std::int64_t expected) const;

  at::Tensor rows_to_send_, rows_on_device_;    // int64, owned rows in the order of out_
  Buffer send_, receive_, pinned_send_, pinned_receive_;
};

void Halo::Exchange::plan(std::int64_t owned, const std::vector<int> &owner_rank,
                          const std::vector<std::int64_t> &owner_row,
                          std::vector<std::int64_t> &slot)
{
  const std::size_t n_ghosts = owner_rank.size();
  std::vector<std::size_t> order;
  slot.assign(n_ghosts, -1);
  for (std::size_t g = 0; g < n_ghosts; ++g) {
    if (owner_row[g] < 0) continue;
    if (owner_rank[g] == me_)
      slot[g] = owner_row[g];
    else
      order.push_back(g);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return owner_rank[a] != owner_rank[b] ? owner_rank[a] < owner_rank[b]
                                          : owner_row[a] < owner_row[b];
  });
  std::vector<int> needed(size_, 0), asked(size_, 0);
  std::vector<std::int64_t> request;    // rows of their owners, grouped by owner
  for (std::size_t k = 0; k < order.size(); ++k) {
    const std::size_t g = order[k];
    const bool image = k > 0 && owner_rank[g] == owner_rank[order[k - 1]] &&
                       owner_row[g] == owner_row[order[k - 1]];
    if (!image) {
      request.push_back(owner_row[g]);
      ++needed[owner_rank[g]];
    }
    slot[g] = owned + static_cast<std::int64_t>(request.size()) - 1;
  }
  MPI_Alltoall(needed.data(), 1, MPI_INT, asked.data(), 1, MPI_INT, comm_);
  std::vector<int> needed_at(size_, 0), asked_at(size_, 0);
  std::partial_sum(needed.begin(), needed.end() - 1, needed_at.begin() + 1);
  std::partial_sum(asked.begin(), asked.end() - 1, asked_at.begin() + 1);
  in_.assign(needed);
  out_.assign(asked);
  owned_ = owned;
  rows_to_send_ = at::empty({out_.rows}, at::kLong);
  rows_on_device_ = at::Tensor();
  MPI_Alltoallv(request.data(), needed.data(), needed_at.data(), MPI_INT64_T,
                rows_to_send_.data_ptr<std::int64_t>(), asked.data(), asked_at.data(), MPI_INT64_T,
                comm_);
}

const at::Tensor &Halo::Exchange::send_rows(const at::Device &device)
{
  if (!rows_on_device_.defined() || rows_on_device_.device() != device)
    rows_on_device_ = rows_to_send_.to(device);
  return rows_on_device_;
}

void Halo::Exchange::check(const char *what, std::int64_t found, std::int64_t expected) const
{
  TORCH_CHECK(found == expected, "dpsim halo exchange: ", what, " has ", found,
              " rows, the plan expects ", expected);
}

at::Tensor Halo::Exchange::extend(const at::Tensor &h, std::int64_t rows)
{
  const at::AutoDispatchBelowADInplaceOrView below_autograd;    // buffers outlive inference mode
  check("the owned tensor", h.size(0), owned_);
  check("the extended tensor", rows, owned_ + in_.rows);
  auto sizes = h.sizes().vec();
  sizes[0] = rows;
  at::Tensor extended = at::empty(sizes, h.options());
  extended.narrow(0, 0, owned_).copy_(h);
  sizes[0] = out_.rows;
  at::Tensor sent = send_.view(sizes, h.options());
  if (out_.rows) at::index_select_out(sent, h, 0, send_rows(h.device()));
  exchange(sent, out_, extended.narrow(0, owned_, in_.rows), in_);
  return extended;
}

at::Tensor Halo::Exchange::fold(const at::Tensor &g, std::int64_t owned)
{
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  check("the owned tensor", owned, owned_);
  check("the extended tensor", g.size(0), owned_ + in_.rows);
  auto sizes = g.sizes().vec();
  sizes[0] = out_.rows;
  at::Tensor folded = g.narrow(0, 0, owned_).clone();
  at::Tensor received = receive_.view(sizes, g.options());
  exchange(g.narrow(0, owned_, in_.rows), in_, received, out_);
  if (out_.rows) folded.index_add_(0, send_rows(g.device()), received);
  return folded;
}

void Halo::Exchange::exchange(const at::Tensor &sent, const Parcels &to, at::Tensor received,
                              const Parcels &from)
{
  ++calls_;
  sent_.push_back(0);
  if (to.rank.empty() && from.rank.empty()) return;
  if (sent.is_cpu() ? !stage_cpu_ : !stage_) {
    synchronize(sent.device());
    transfer(sent, to, received, from);
    return;
  }
  const auto host = sent.options().device(at::kCPU).pinned_memory(!sent.is_cpu());
  at::Tensor host_sent = pinned_send_.view(sent.sizes(), host);
  at::Tensor host_received = pinned_receive_.view(received.sizes(), host);
  host_sent.copy_(sent);    // blocking
  transfer(host_sent, to, host_received, from);
  received.copy_(host_received, /*non_blocking=*/false);
}

// Neighbours only, straight between the tensors' memories. Rows are one MPI item each, so counts
// fit an int.
void Halo::Exchange::transfer(const at::Tensor &sent, const Parcels &to, const at::Tensor &received,
                              const Parcels &from)
{
  std::int64_t row_bytes = static_cast<std::int64_t>(sent.element_size());
  for (std::int64_t k = 1; k < sent.dim(); ++k) row_bytes *= sent.size(k);
  if (!row_bytes) return;
  MPI_Datatype row;
  MPI_Type_contiguous(static_cast<int>(row_bytes), MPI_BYTE, &row);
  MPI_Type_commit(&row);
  std::vector<MPI_Request> requests;
  requests.reserve(to.rank.size() + from.rank.size());
  char *in = static_cast<char *>(received.data_ptr());
  for (std::size_t k = 0; k < from.rank.size(); in += from.count[k++] * row_bytes)
    MPI_Irecv(in, from.count[k], row, from.rank[k], TAG, comm_, &requests.emplace_back());
  const char *out = static_cast<const char *>(sent.const_data_ptr());
  for (std::size_t k = 0; k < to.rank.size(); out += to.count[k++] * row_bytes)
    MPI_Isend(out, to.count[k], row, to.rank[k], TAG, comm_, &requests.emplace_back());
  MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
  MPI_Type_free(&row);
  bytes_ += sent_.back() = to.rows * row_bytes;
}

// Sends one small buffer of device memory around the ranks and looks whether it arrives on all. A device that fails
// on one rank must not keep it from what is collective.
bool Halo::Exchange::trial(const at::Device &device)
{
  const int next = (me_ + 1) % size_, previous = (me_ + size_ - 1) % size_;
  at::Tensor sent, received;
  const bool made = on_all_ranks(succeeds([&] {
    const auto options = at::TensorOptions().dtype(at::kInt).device(device);
    sent = at::full({8}, me_, options);
    received = at::full({8}, -1, options);
    synchronize(device);
    return true;
  }));
  if (!made) return false;
  MPI_Sendrecv(sent.data_ptr(), 8, MPI_INT, next, TAG, received.data_ptr(), 8, MPI_INT, previous,
               TAG, comm_, MPI_STATUS_IGNORE);
  return on_all_ranks(succeeds([&] { return received.eq(previous).all().item<bool>(); }));
}

bool Halo::Exchange::on_all_ranks(bool yes) const
{
  int mine = yes, all = 0;
  MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, comm_);
  return all != 0;
}

Halo::Halo(MPI_Comm comm) : exchange_(std::make_unique<Exchange>(comm)) {}
Halo::~Halo() = default;

std::string Halo::choose_route(HaloRoute wanted, const std::string &device_name)
{
  const at::Device device(device_name);
  if (!exchange_->on_all_ranks(!device.is_cpu())) {
    if (wanted == HaloRoute::device)
      throw std::runtime_error("\"mpi device\" needs a model on a GPU, this one runs on the CPU; "
                               "leave the keyword out");
    return "host memory";
  }
  exchange_->stage_ = true;
  if (wanted == HaloRoute::host) return "pinned host memory";
  const bool claimed = exchange_->on_all_ranks(mpi_claims_device_memory());
  if (wanted == HaloRoute::device && !claimed)
    throw std::runtime_error("\"mpi device\" needs an MPI library that takes GPU memory, this one "
                             "says that it does not; use \"mpi host\"");
  const bool intact = claimed && exchange_->trial(device);
  if (wanted == HaloRoute::device && !intact)
    throw std::runtime_error("\"mpi device\" failed: a trial message from GPU memory did not "
                             "arrive intact; use \"mpi host\"");
  exchange_->stage_ = !intact;
  return intact ? "GPU memory (CUDA-aware MPI, verified)" : "pinned host memory";
}

void Halo::plan(std::int64_t owned, const std::vector<int> &owner_rank,
                const std::vector<std::int64_t> &owner_row, std::vector<std::int64_t> &slot)
{
  exchange_->plan(owned, owner_rank, owner_row, slot);
}

std::int64_t Halo::handle() const { return exchange_->handle_; }
std::int64_t Halo::remote_rows() const { return exchange_->in_.rows; }
std::int64_t Halo::bytes_sent() const { return exchange_->bytes_; }
std::int64_t Halo::exchanges() const { return exchange_->calls_; }
std::int64_t Halo::buffer_bytes() const { return exchange_->buffer_bytes(); }
void Halo::begin() { exchange_->sent_.clear(); }
const std::vector<std::int64_t> &Halo::sent() const { return exchange_->sent_; }
void Halo::stage_always() { exchange_->stage_cpu_ = true; }

}    // namespace dpsim
