#include "pair/compute_dpsim_tensor.h"
#include "pair/lammpsplugin_abi.h"
#include "pair/pair_dpsim.h"

using namespace LAMMPS_NS;

static Pair *create_pair(LAMMPS *lmp) { return new PairDPSim(lmp); }
static Compute *create_tensor(LAMMPS *lmp, int narg, char **arg) { return new ComputeDPSimTensor(lmp, narg, arg); }

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  const auto add = reinterpret_cast<lammpsplugin_regfunc>(regfunc);
  lammpsplugin_t plugin{};
  plugin.version = DPSIM_LAMMPS_VERSION_STRING;
  plugin.author = "dpsim";
  plugin.handle = handle;

  plugin.style = "pair";
  plugin.name = "dpsim";
  plugin.info = "Deep Potential models of dpsim";
  plugin.creator.v1 = reinterpret_cast<lammpsplugin_factory1 *>(&create_pair);
  add(&plugin, lmp);

  plugin.style = "compute";
  plugin.name = "dpsim/tensor/atom";
  plugin.info = "dipoles and other atomic outputs of dpsim's models";
  plugin.creator.v2 = reinterpret_cast<lammpsplugin_factory2 *>(&create_tensor);
  add(&plugin, lmp);
}
