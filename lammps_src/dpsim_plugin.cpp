#include "lammpsplugin_abi.h"
#include "pair_dpsim.h"

using namespace LAMMPS_NS;

static Pair *create_pair(LAMMPS *lmp) { return new PairDPSim(lmp); }

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  lammpsplugin_t plugin{};
  plugin.version = DPSIM_LAMMPS_VERSION_STRING;
  plugin.style = "pair";
  plugin.name = "dpsim";
  plugin.info = "Deep Potential models of dpsim";
  plugin.author = "dpsim";
  plugin.creator.v1 = reinterpret_cast<lammpsplugin_factory1 *>(&create_pair);
  plugin.handle = handle;
  reinterpret_cast<lammpsplugin_regfunc>(regfunc)(&plugin, lmp);
}
