// What one eV, one Å and one g/mol are in the units of a LAMMPS input.
#pragma once

#include <string>

namespace LAMMPS_NS {

class LAMMPS;

struct LammpsUnits {
  double energy = 1.0, length = 1.0, mass = 1.0;

  double force() const { return energy / length; }
};

// By LAMMPS's own constants. Stops the program, with `who` before the message, for units without dimension.
LammpsUnits lammps_units(LAMMPS *lmp, const std::string &who);

}    // namespace LAMMPS_NS
