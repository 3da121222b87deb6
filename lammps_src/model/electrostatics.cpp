#include "model/electrostatics.h"

#include "model/model_info.h"

#include <ATen/ATen.h>

namespace dpsim {
namespace {

at::Tensor by_type(const std::vector<double> &charges, at::Device device)
{
  return at::tensor(charges, at::kDouble).to(device);
}

// Rows of `values` at their places among n, zero elsewhere.
at::Tensor spread(const at::Tensor &values, const at::Tensor &index, std::int64_t n)
{
  std::vector<std::int64_t> sizes = values.sizes().vec();
  sizes[0] = n;
  return at::zeros(sizes, values.options()).index_copy_(0, index, values);
}

}    // namespace

Electrostatics::Electrostatics(const Charges &charges, at::Device device) :
    ion_(by_type(charges.ion, device)), centroid_(by_type(charges.centroid, device)),
    sum_(charges.spacing, charges.beta, device)
{
}

LongRange Electrostatics::evaluate(const at::Tensor &types, const at::Tensor &dipoles, const Surroundings &around)
{
  const std::int64_t n = types.size(0);
  at::Tensor positions = at::empty({n, 3}, at::kDouble);
  std::copy_n(around.positions, 3 * n, positions.mutable_data_ptr<double>());
  positions = positions.to(types.device());
  const at::Tensor ion = ion_.index_select(0, types), centroid = centroid_.index_select(0, types);
  const at::Tensor ions = ion.nonzero().squeeze(1), centroids = centroid.nonzero().squeeze(1);
  const std::int64_t n_ions = ions.size(0), n_centroids = centroids.size(0);
  const EwaldShares found = sum_.evaluate(
      at::cat({positions.index_select(0, ions), (positions + dipoles).index_select(0, centroids)}),
      at::cat({ion.index_select(0, ions), centroid.index_select(0, centroids)}), around.cell, around.comm,
      around.atom_virial);

  const auto of_ions = [&](const at::Tensor &t) { return spread(t.narrow(0, 0, n_ions), ions, n); };
  const auto of_centroids = [&](const at::Tensor &t) { return spread(t.narrow(0, n_ions, n_centroids), centroids, n); };
  LongRange out;
  out.atomic_energy = of_ions(found.energy) + of_centroids(found.energy);
  out.centroid_forces = of_centroids(found.forces);
  out.forces = of_ions(found.forces) + out.centroid_forces;
  // The virial of the sum moves the centroids with the cell: what that adds to their dipoles is taken out.
  const at::Tensor stretched = (out.centroid_forces.unsqueeze(2) * dipoles.unsqueeze(1)).view({n, 9});
  int rank;
  MPI_Comm_rank(around.comm, &rank);
  out.virial = stretched.sum(0).neg_();
  if (rank == 0) out.virial += at::tensor(at::ArrayRef<double>(found.total_virial), at::kDouble).to(types.device());
  if (around.atom_virial)
    out.atom_virial = (of_ions(found.virial) + of_centroids(found.virial)).view({n, 9}) - stretched;
  return out;
}

}    // namespace dpsim
