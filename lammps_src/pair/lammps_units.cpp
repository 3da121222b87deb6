#include "pair/lammps_units.h"

#include "error.h"
#include "force.h"
#include "lammps.h"
#include "update.h"
#include "utils.h"

#include <map>

namespace LAMMPS_NS {
namespace {

// LAMMPS's Boltzmann constant in metal units, eV/K.
constexpr double BOLTZMANN = 8.617343e-5;

// One g/mol, CODATA 2018; for warnings about masses only.
const std::map<std::string, double> MASSES = {
    {"metal", 1.0},          {"real", 1.0},           {"electron", 1.0},      {"si", 1.66053907e-27},
    {"cgs", 1.66053907e-24}, {"micro", 1.66053907e-12}, {"nano", 1.66053907e-6},
};

}    // namespace

LammpsUnits lammps_units(LAMMPS *lmp, const std::string &who)
{
  const std::string style = lmp->update->unit_style;
  const auto mass = MASSES.find(style);
  if (mass == MASSES.end())
    lmp->error->all(FLERR, "{} needs units that have dimensions, the input has \"units {}\"; write \"units metal\" at "
                    "its top and give lengths in Angstrom", who, style);
  // for real, the factor by which LAMMPS converts the files of its own potentials
  const double energy = style == "real" ? utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL)
                                        : lmp->force->boltz / BOLTZMANN;
  return {energy, lmp->force->angstrom, mass->second};
}

}    // namespace LAMMPS_NS
