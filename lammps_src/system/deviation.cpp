#include "system/deviation.h"

#include <algorithm>
#include <cmath>

namespace dpsim {
namespace {

struct Moments {
  double mean = 0.0, variance = 0.0;
};

Moments moments(const std::vector<std::vector<double>> &models, std::size_t k)
{
  Moments m;
  for (const auto &values : models) m.mean += values[k];
  m.mean /= static_cast<double>(models.size());
  for (const auto &values : models) m.variance += (values[k] - m.mean) * (values[k] - m.mean);
  m.variance /= static_cast<double>(models.size());
  return m;
}

double divided(double deviation, double squared_mean, double level)
{
  return level < 0.0 ? deviation : deviation / (std::sqrt(squared_mean) + level);
}

}    // namespace

std::vector<double> vector_deviations(const std::vector<std::vector<double>> &models, std::size_t n, double level)
{
  std::vector<double> out(n);
  for (std::size_t i = 0; i < n; ++i) {
    double variance = 0.0, squared_mean = 0.0;
    for (std::size_t k = 3 * i; k < 3 * i + 3; ++k) {
      const Moments m = moments(models, k);
      variance += m.variance;
      squared_mean += m.mean * m.mean;
    }
    out[i] = divided(std::sqrt(variance), squared_mean, level);
  }
  return out;
}

Spread tensor_deviation(const std::vector<std::vector<double>> &models, double level)
{
  double most = 0.0, least = 0.0, total = 0.0, squared_mean = 0.0;
  for (std::size_t k = 0; k < 9; ++k) {
    const Moments m = moments(models, k);
    const double deviation = std::sqrt(m.variance);
    most = std::max(most, deviation);
    least = k == 0 ? deviation : std::min(least, deviation);
    total += m.variance;
    squared_mean += m.mean * m.mean;
  }
  Spread out{most, least, std::sqrt(total / 9.0)};
  for (double *x : {&out.most, &out.least, &out.mean}) *x = divided(*x, squared_mean, level);
  return out;
}

}    // namespace dpsim
