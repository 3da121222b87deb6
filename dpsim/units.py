"""Units of dpsim and conversion factors, all taken from `ase.units` (CODATA 2014).

Inside dpsim every number is in Å, eV, eV/Å, eV (virial), amu and ps; quantities in files and on the
command line carry their unit as text, for example ``"2 fs"`` or ``"1 bar"``, and are read by `parse_quantity`.
"""

from __future__ import annotations

import math
import re
from typing import Final

from dpsim.errors import ConfigError

EV_PER_HARTREE: Final = 27.211386024367243
"""eV per hartree (`ase.units.Hartree`)."""
ANGSTROM_PER_BOHR: Final = 0.5291772105638411
"""Å per bohr (`ase.units.Bohr`)."""
KCAL_PER_MOL_PER_EV: Final = 23.060548012069496
"""kcal/mol per eV, LAMMPS ``units real``."""
GPA_PER_EV_A3: Final = 160.21766208
"""GPa per eV/Å³ (`ase.units.GPa` inverted)."""
ASE_TIME_PER_PS: Final = 98.22694788464064
"""ASE's unit of time, Å (amu/eV)^½, in which its velocities and time steps are, per ps (`1000 ase.units.fs`)."""
BOLTZMANN_EV: Final = 8.617330337217213e-05
"""Boltzmann constant in eV/K (`ase.units.kB`)."""

# dimension -> {unit: factor to the internal unit}; the first unit of each row is the internal one.
_UNITS: Final[dict[str, dict[str, float]]] = {
    "length": {"angstrom": 1.0, "Å": 1.0, "A": 1.0, "nm": 10.0, "bohr": ANGSTROM_PER_BOHR, "pm": 0.01},
    "energy": {
        "eV": 1.0,
        "meV": 1e-3,
        "hartree": EV_PER_HARTREE,
        "kcal/mol": 1 / KCAL_PER_MOL_PER_EV,
        "kJ/mol": 1 / (KCAL_PER_MOL_PER_EV * 4.184),
    },
    "force": {
        "eV/angstrom": 1.0,
        "eV/Å": 1.0,
        "meV/angstrom": 1e-3,
        "hartree/bohr": EV_PER_HARTREE / ANGSTROM_PER_BOHR,
    },
    "time": {"ps": 1.0, "fs": 1e-3, "ns": 1e3},
    "temperature": {"K": 1.0},
    "pressure": {"bar": 1.0, "kbar": 1e3, "Pa": 1e-5, "kPa": 1e-2, "MPa": 10.0, "GPa": 1e4, "atm": 1.01325},
    "walltime": {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "memory": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "MiB": 2.0**20, "GiB": 2.0**30},
    "fraction": {"": 1.0, "%": 0.01},
    "density": {"g/cm3": 1.0, "kg/m3": 1e-3},
    "frequency": {"THz": 1.0, "cm-1": 0.0299792458, "meV": 0.2417989242084},
    "modulus": {"GPa": 1.0, "kbar": 0.1, "eV/angstrom3": GPA_PER_EV_A3},
    "surface energy": {"J/m2": 1.0, "eV/angstrom2": 16.021766208, "meV/angstrom2": 0.016021766208},
    "energy of an atom": {"eV/atom": 1.0, "meV/atom": 1e-3, "kJ/mol": 1 / (KCAL_PER_MOL_PER_EV * 4.184)},
    "volume of an atom": {"angstrom3/atom": 1.0, "bohr3/atom": ANGSTROM_PER_BOHR**3},
    "angle": {"deg": 1.0},
}

_QUANTITY = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*$")


def internal_unit(dimension: str) -> str:
    """Return the name of the unit that dpsim uses inside for a dimension such as ``"time"``."""
    return next(iter(_UNITS[dimension]))


def parse_quantity(text: str | float | int, dimension: str, *, bare: bool = True) -> float:
    """Read a quantity with its unit and return it in dpsim's internal unit.

    Parameters
    ----------
    text
        For example ``"0.5 fs"``; a bare number is taken to be in the internal unit if `bare` is true.
    dimension
        One of length (Å), energy (eV), force (eV/Å), time (ps), temperature (K), pressure (bar),
        walltime (s), memory (B), fraction (1), density (g/cm3), frequency (THz), modulus (GPa), surface energy
        (J/m2), energy of an atom (eV/atom), volume of an atom (angstrom3/atom), angle (deg).
    bare
        Whether a number without a unit is accepted.

    Raises
    ------
    ConfigError
        If the text is no quantity, or its unit is not one of the dimension's.
    """
    units = _UNITS[dimension]
    expected = ", ".join(unit for unit in units if unit) or "a number"
    match = None if isinstance(text, bool) else _QUANTITY.match(str(text))
    if match is None or not math.isfinite(float(match[1])):
        article = "an" if dimension[0] in "aeio" else "a"
        raise ConfigError(f"{text!r} is not {article} {dimension}: write a number and a unit ({expected})")
    unit = match[2] or ""
    if not unit:
        if not bare:
            raise ConfigError(f"{text!r} has no unit: write one of {expected}")
        return float(match[1])
    if unit not in units:
        raise ConfigError(f"unit {unit!r} in {text!r} is not a unit of {dimension}: use one of {expected}")
    return float(match[1]) * units[unit]
