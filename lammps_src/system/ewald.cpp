#include "system/ewald.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace dpsim {
namespace {

constexpr double COULOMB = 14.39964535475696995;    // e^2/(4 pi epsilon_0), eV Å
constexpr double ROUNDING = 1e-12;                  // relative, of the length of a cell vector
constexpr std::int64_t MOST_WAVES = std::int64_t{1} << 27;    // some 6 GB
constexpr std::int64_t MOST_AT_ONCE = std::int64_t{1} << 30;    // numbers in one message

double pi_over(double beta) { return std::numbers::pi / beta; }

Matrix inverse_of(const Matrix &a, double determinant)
{
  Matrix out;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      const int r = (j + 1) % 3, s = (j + 2) % 3, c = (i + 1) % 3, d = (i + 2) % 3;
      out[3 * i + j] = (a[3 * r + c] * a[3 * s + d] - a[3 * r + d] * a[3 * s + c]) / determinant;
    }
  return out;
}

double determinant_of(const Matrix &a)
{
  return a[0] * (a[4] * a[8] - a[5] * a[7]) + a[1] * (a[5] * a[6] - a[3] * a[8]) + a[2] * (a[3] * a[7] - a[4] * a[6]);
}

// Smallest even number of points along a vector at which they are at most `spacing` apart.
std::int64_t grid_size(const double *vector, double spacing)
{
  const double length = std::sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
  const double points = std::ceil(length / spacing * (1.0 - ROUNDING));
  if (!(points < static_cast<double>(MOST_WAVES)))
    throw std::runtime_error("a box vector of " + std::to_string(length) + " A is too long for waves of " +
                             std::to_string(2.0 * spacing) + " A");
  const auto n = static_cast<std::int64_t>(points);
  return n + n % 2;
}

// The waves at some charges, as products of one factor for each cell vector, and sums over them. B charges.
class WavesAt {
 public:
  WavesAt(const at::Tensor &fractional, const std::vector<at::Tensor> &integers) : integers_(integers)
  {
    for (int d = 0; d < 3; ++d) {
      const at::Tensor angle = 2.0 * std::numbers::pi * fractional.narrow(1, d, 1) * integers[d];
      factors_.push_back(at::complex(angle.cos(), angle.sin()));
    }
  }

  // (B, n_d): the factors, times a power of the integers.
  at::Tensor factor(int d, int power) const
  {
    return power == 0 ? factors_[d] : factors_[d] * integers_[d].pow(power);
  }

  // (B, n1 n2): products of the first two factors.
  at::Tensor first_two() const { return (factors_[0].unsqueeze(2) * factors_[1].unsqueeze(1)).flatten(1); }

  // Sums of `field` (n1 n2, n3) times the waves and a power of the integers, one cell vector after the other.
  at::Tensor over_third(const at::Tensor &field, int power) const
  {
    return factor(2, power).mm(field.t()).view({-1, integers_[0].size(0), integers_[1].size(0)});
  }
  at::Tensor over_second(const at::Tensor &sums, int power) const
  {
    return at::bmm(sums, factor(1, power).unsqueeze(2)).squeeze(2);
  }
  at::Tensor over_first(const at::Tensor &sums, int power) const { return (sums * factor(0, power)).sum(1); }

 private:
  const std::vector<at::Tensor> &integers_;
  std::vector<at::Tensor> factors_;
};

// Sums (B) of the field, and (B,3) of the field times each integer.
std::pair<at::Tensor, at::Tensor> field_and_gradient(const WavesAt &waves, const at::Tensor &field)
{
  const at::Tensor third = waves.over_third(field, 0), second = waves.over_second(third, 0);
  const at::Tensor along_2 = waves.over_first(waves.over_second(third, 1), 0);
  const at::Tensor along_3 = waves.over_first(waves.over_second(waves.over_third(field, 1), 0), 0);
  return {waves.over_first(second, 0), at::stack({waves.over_first(second, 1), along_2, along_3}, 1)};
}

// Sums (B,3,3) of the field times products of two integers.
at::Tensor second_moments(const WavesAt &waves, const at::Tensor &field)
{
  const at::Tensor third = waves.over_third(field, 0), with_3 = waves.over_third(field, 1);
  const at::Tensor second = waves.over_second(third, 0), second_with_3 = waves.over_second(with_3, 0);
  const at::Tensor xx = waves.over_first(second, 2), xz = waves.over_first(second_with_3, 1);
  const at::Tensor xy = waves.over_first(waves.over_second(third, 1), 1);
  const at::Tensor yy = waves.over_first(waves.over_second(third, 2), 0);
  const at::Tensor yz = waves.over_first(waves.over_second(with_3, 1), 0);
  const at::Tensor zz = waves.over_first(waves.over_second(waves.over_third(field, 2), 0), 0);
  return at::stack({xx, xy, xz, xy, yy, yz, xz, yz, zz}, 1).view({-1, 3, 3});
}

void sum_over_ranks(at::Tensor &structure, MPI_Comm comm)
{
  int size;
  MPI_Comm_size(comm, &size);
  if (size == 1) return;
  at::Tensor host = at::view_as_real(structure).to(at::kCPU).contiguous();
  auto *numbers = host.mutable_data_ptr<double>();
  for (std::int64_t done = 0; done < host.numel(); done += MOST_AT_ONCE) {
    const int n = static_cast<int>(std::min(MOST_AT_ONCE, host.numel() - done));
    MPI_Allreduce(MPI_IN_PLACE, numbers + done, n, MPI_DOUBLE, MPI_SUM, comm);
  }
  structure = at::view_as_complex(host).to(structure.device());
}

}    // namespace

EwaldSum::EwaldSum(double spacing, double beta, at::Device device) :
    spacing_(spacing), beta_(beta), options_(at::TensorOptions(at::kDouble).device(device))
{
}

// Of a wave and its opposite only one is kept, as their structure factors are conjugate.
void EwaldSum::choose_waves(const Matrix &cell)
{
  if (kernel_.defined() && cell == cell_) return;
  const double volume = determinant_of(cell);
  Matrix inverse = inverse_of(cell, volume);
  std::vector<at::Tensor> along;
  std::int64_t n_waves = 1;
  for (int d = 0; d < 3; ++d) {
    const std::int64_t half = grid_size(cell.data() + 3 * d, spacing_) / 2;
    const std::int64_t n = (d > 0 ? half : 0) + half + 1;
    if (n > MOST_WAVES / n_waves)
      throw std::runtime_error("the electrostatics of this box has more than " + std::to_string(MOST_WAVES) +
                               " waves, which is far too many to be summed atom by atom; use a smaller box, or a model "
                               "with a larger ewald_h");
    n_waves *= n;
    along.push_back(at::arange(d > 0 ? -half : 0, half + 1, options_));
  }
  cell_ = cell;
  integers_ = along;
  prefactor_ = COULOMB / (2.0 * std::numbers::pi * std::fabs(volume));
  inverse_ = at::from_blob(inverse.data(), {3, 3}, at::kDouble).to(options_.device(), at::kDouble, false, true);
  at::Tensor square = at::zeros({}, options_);
  const std::array<at::Tensor, 3> k{along[0].view({-1, 1, 1}), along[1].view({-1, 1}), along[2]};
  for (int c = 0; c < 3; ++c) {
    const double *row = inverse.data() + 3 * c;
    square = square + (k[0] * row[0] + k[1] * row[1] + k[2] * row[2]).square();
  }
  const std::int64_t origin[] = {along[1].size(0) / 2, along[2].size(0) / 2};
  square.select(0, 0).select(0, origin[0]).select(0, origin[1]).fill_(1.0);
  const double q = pi_over(beta_) * pi_over(beta_);
  kernel_ = (square * -q).exp().div_(square);
  shear_ = square.reciprocal().add_(q).mul_(-2.0);
  for (const at::Tensor *t : {&kernel_, &shear_})
    t->select(0, 0).select(0, origin[0]).select(0, origin[1]).fill_(0.0);
  kernel_.narrow(0, 1, along[0].size(0) - 1).mul_(2.0);
}

// Charges that are treated at once, so that what belongs to each wave and charge stays near the processor.
std::int64_t EwaldSum::block_size() const
{
  const std::int64_t budget = std::int64_t{1} << (options_.device().is_cpu() ? 17 : 23);
  return std::max<std::int64_t>(16, budget / (integers_[0].size(0) * integers_[1].size(0)));
}

at::Tensor EwaldSum::structure_factors(const at::Tensor &fractional, const at::Tensor &charges, MPI_Comm comm) const
{
  const std::int64_t rows = integers_[0].size(0) * integers_[1].size(0), n = charges.size(0), step = block_size();
  at::Tensor out = at::zeros({rows, integers_[2].size(0)}, options_.dtype(at::kComplexDouble));
  for (std::int64_t first = 0; first < n; first += step) {
    const std::int64_t count = std::min(step, n - first);
    const WavesAt waves(fractional.narrow(0, first, count), integers_);
    const at::Tensor charged = waves.first_two() * charges.narrow(0, first, count).unsqueeze(1);
    out.addmm_(charged.t(), waves.factor(2, 0));
  }
  sum_over_ranks(out, comm);
  return out;
}

Matrix EwaldSum::total_virial(const at::Tensor &structure) const
{
  const at::Tensor power = kernel_ * at::view_as_real(structure).square().sum(2).view_as(kernel_);
  const at::Tensor sheared = power * shear_;
  const at::Tensor xy = sheared.sum(2), xz = sheared.sum(1), yz = sheared.sum(0);
  const auto &k = integers_;
  const auto moment = [&](const at::Tensor &sums, int a, int b) { return k[a].dot(sums.mv(k[b])); };
  const at::Tensor xx = xy.sum(1).dot(k[0].square()), yy = xy.sum(0).dot(k[1].square());
  const at::Tensor zz = xz.sum(0).dot(k[2].square());
  const at::Tensor m = at::stack({xx, moment(xy, 0, 1), moment(xz, 0, 2), moment(xy, 0, 1), yy, moment(yz, 1, 2),
                                  moment(xz, 0, 2), moment(yz, 1, 2), zz}).view({3, 3});
  const at::Tensor all = inverse_.mm(m).mm(inverse_.t()) + at::eye(3, options_) * power.sum();
  const at::Tensor host = (all * prefactor_).to(at::kCPU).contiguous();
  Matrix out;
  std::copy_n(host.const_data_ptr<double>(), 9, out.begin());
  return out;
}

EwaldShares EwaldSum::shares(const at::Tensor &fractional, const at::Tensor &charges, const at::Tensor &structure,
                             bool want_virial) const
{
  const at::Tensor field = kernel_.view_as(structure) * structure.conj();
  const at::Tensor sheared = want_virial ? field * shear_.view_as(structure) : at::Tensor();
  const std::int64_t n = charges.size(0), step = block_size();
  EwaldShares out;
  out.energy = at::empty({n}, options_);
  out.forces = at::empty({n, 3}, options_);
  if (want_virial) out.virial = at::empty({n, 3, 3}, options_);
  for (std::int64_t first = 0; first < n; first += step) {
    const std::int64_t count = std::min(step, n - first);
    const WavesAt waves(fractional.narrow(0, first, count), integers_);
    const auto [potential, gradient] = field_and_gradient(waves, field);
    const at::Tensor charge = charges.narrow(0, first, count) * prefactor_;
    const at::Tensor energy = charge * at::real(potential);
    out.energy.narrow(0, first, count).copy_(energy);
    const at::Tensor slope = at::imag(gradient).mm(inverse_.t());
    out.forces.narrow(0, first, count).copy_(slope * (4.0 * std::numbers::pi * charge).unsqueeze(1));
    if (!want_virial) continue;
    const at::Tensor moments = at::matmul(at::matmul(inverse_, at::real(second_moments(waves, sheared))), inverse_.t());
    out.virial.narrow(0, first, count)
        .copy_(moments * charge.view({-1, 1, 1}) + at::eye(3, options_) * energy.view({-1, 1, 1}));
  }
  return out;
}

EwaldShares EwaldSum::evaluate(const at::Tensor &positions, const at::Tensor &charges, const Matrix &cell,
                               MPI_Comm comm, bool want_virial)
{
  choose_waves(cell);
  const at::Tensor fractional = positions.mm(inverse_);
  const at::Tensor structure = structure_factors(fractional, charges, comm);
  EwaldShares out = shares(fractional, charges, structure, want_virial);
  out.total_virial = total_virial(structure);
  return out;
}

}    // namespace dpsim
