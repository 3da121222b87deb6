#include "pair/run_report.h"

#include "comm.h"
#include "lammps.h"
#include "utils.h"

#include <fstream>
#include <string>
#include <sys/resource.h>
#include <vector>

using namespace LAMMPS_NS;

namespace {

constexpr double MB = 1024.0 * 1024.0;

// Smallest, mean and largest of a number over the ranks.
std::string over_ranks(MPI_Comm world, int n_ranks, double mine)
{
  double low, sum, high;
  MPI_Allreduce(&mine, &low, 1, MPI_DOUBLE, MPI_MIN, world);
  MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, world);
  MPI_Allreduce(&mine, &high, 1, MPI_DOUBLE, MPI_MAX, world);
  return fmt::format("{:.4g}/{:.4g}/{:.4g}", low, sum / n_ranks, high);
}

// Of this program alone where the system tells: what is known of a process counts the one it was forked from.
double peak_memory()
{
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (double kilobytes; word == "VmHWM:" && status >> kilobytes) return kilobytes * 1024.0;
  rusage used;
  getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_maxrss) * 1024.0;
}

// Bytes that all ranks together send in each exchange.
std::vector<std::int64_t> total_bytes(MPI_Comm world, const std::vector<std::int64_t> &mine)
{
  int n = static_cast<int>(mine.size()), most;
  MPI_Allreduce(&n, &most, 1, MPI_INT, MPI_MAX, world);
  std::vector<std::int64_t> sent(mine), total(most);
  sent.resize(most);
  MPI_Allreduce(sent.data(), total.data(), most, MPI_INT64_T, MPI_SUM, world);
  return total;
}

}    // namespace

void LAMMPS_NS::report_run(LAMMPS *lmp, const std::string &who, std::int64_t atoms, const dpsim::GraphSizes &sizes,
                           const dpsim::Halo &halo, std::int64_t device_bytes)
{
  const MPI_Comm world = lmp->world;
  const int n = lmp->comm->nprocs;
  const auto line = [&](const char *what, double mine) {
    return fmt::format("  {} {}\n", what, over_ranks(world, n, mine));
  };
  std::string text = who + ", on each rank (min/avg/max):\n";
  text += line("atoms", static_cast<double>(atoms));
  text += line("atoms of other ranks whose features are received", static_cast<double>(halo.remote_rows()));
  text += line("pieces that the atoms are evaluated in", static_cast<double>(sizes.pieces));
  text += line("edges", static_cast<double>(sizes.edges));
  text += line("pairs of edges", static_cast<double>(sizes.pairs));
  text += line("peak memory of the process (MB)", peak_memory() / MB);
  text += line("halo buffers (MB)", static_cast<double>(halo.buffer_bytes()) / MB);
  text += line("peak GPU memory of the model (MB)", static_cast<double>(device_bytes) / MB);
  const auto bytes = total_bytes(world, halo.sent());
  std::int64_t sum = 0;
  std::string each;
  for (const auto b : bytes) {
    sum += b;
    each += fmt::format(" {}", b);
  }
  text += fmt::format("  bytes of features sent by all ranks in a step: {} in {} exchanges{}{}\n", sum, bytes.size(),
                      each.empty() ? "" : ":", each);
  if (lmp->comm->me == 0) utils::logmesg(lmp, text);
}
