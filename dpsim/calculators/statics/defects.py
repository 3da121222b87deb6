"""Vacancies and surfaces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dpsim.calculators.statics.phonons import repetitions
from dpsim.calculators.statics.properties_config import SurfaceConfig, VacancyConfig
from dpsim.calculators.statics.relax import relaxed_or_error
from dpsim.calculators.statics.relax_config import RelaxSettings
from dpsim.calculators.statics.source import as_source, evaluate_all, name_of
from dpsim.calculators.statics.symmetry import conventional, symmetry_of
from dpsim.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

JOULE_PER_M2 = 16.021766208
"""J/m² per eV/Å² (`ase.units`)."""


class Vacancy(NamedTuple):
    """One kind of vacancy.

    Attributes
    ----------
    element, site
        What is taken out, and the index of such an atom in the crystal.
    energy
        Of formation, eV.
    unrelaxed
        The same before atoms were relaxed, eV.
    atoms
        Number of atoms of the supercell without vacancy.
    structure
        The relaxed supercell with the vacancy.
    """

    element: str
    site: int
    energy: float
    unrelaxed: float
    atoms: int
    structure: Atoms


class Surface(NamedTuple):
    """One surface.

    Attributes
    ----------
    miller
        Indices, of the conventional cell.
    energy
        For an area, J/m²: the mean of both sides of the slab.
    unrelaxed
        The same before atoms were relaxed, J/m².
    area
        Of one side, Å².
    atoms
        Number of atoms of the slab.
    structure
        The slab.
    """

    miller: tuple[int, int, int]
    energy: float
    unrelaxed: float
    area: float
    atoms: int
    structure: Atoms

    @property
    def name(self) -> str:
        """Indices in a row: ``111``, ``1-10``."""
        return "".join(map(str, self.miller))


def vacancies(atoms: Atoms, source: Any, settings: VacancyConfig | None = None) -> list[Vacancy]:
    """Formation energies of a vacancy on every kind of site: ``E(N − 1) + μ − E(N)``, at fixed cell.

    Parameters
    ----------
    atoms
        The relaxed crystal.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    settings
        See `VacancyConfig`.

    Raises
    ------
    ConfigError
        If an element is not in the crystal, or its chemical potential is not known.
    StageError
        If a structure cannot be relaxed.
    """
    settings = settings or VacancyConfig()
    make = as_source(source)
    sites = _sites(atoms, settings)
    cell = atoms.repeat(repetitions(atoms, settings.min_length))
    (whole,) = evaluate_all([cell], make)
    found = []
    for site in sites:
        element = atoms[site].symbol
        potential = settings.chemical_potentials.get(element, whole.energy / len(cell))
        defect = without(cell, site)
        (before,) = evaluate_all([defect], make)
        relaxed = relaxed_or_error(defect, make, settings.settings())
        assert relaxed.after is not None
        rest = whole.energy - potential
        energy, unrelaxed = relaxed.after.energy - rest, before.energy - rest
        found.append(Vacancy(element, site, energy, unrelaxed, len(cell), relaxed.atoms))
    return found


def without(cell: Atoms, site: int) -> Atoms:
    """The structure without one atom."""
    made = cell.copy()
    del made[site]
    made.info["name"] = f"{name_of(cell)}, vacancy at atom {site}"
    return made


def _sites(atoms: Atoms, settings: VacancyConfig) -> list[int]:
    """One atom of each kind of site."""
    present = list(dict.fromkeys(atoms.get_chemical_symbols()))
    wanted = settings.species or tuple(present)
    if missing := [element for element in wanted if element not in present]:
        raise ConfigError(f"vacancy.species: {missing[0]} is not in {name_of(atoms)}, which holds {', '.join(present)}")
    unknown = [element for element in wanted if element not in settings.chemical_potentials]
    if unknown and len(present) > 1:
        raise ConfigError(
            f"vacancy: {name_of(atoms)} is a compound, where the energy of a {unknown[0]} atom that is taken out must "
            f"be given: chemical_potentials: {{{unknown[0]}: -1.0 eV}}"
        )
    kinds = symmetry_of(atoms, settings.symprec).equivalent_atoms
    return [int(site) for site in dict.fromkeys(kinds) if atoms[int(site)].symbol in wanted]


def surfaces(atoms: Atoms, source: Any, settings: SurfaceConfig | None = None) -> list[Surface]:
    """Energies of surfaces: ``(E(slab) − n E(crystal)) / 2A``, at fixed cell.

    Parameters
    ----------
    atoms
        The relaxed crystal.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    settings
        See `SurfaceConfig`.

    Raises
    ------
    StageError
        If a structure cannot be relaxed.
    """
    settings = settings or SurfaceConfig()
    make = as_source(source)
    crystal = conventional(atoms, settings.symprec)
    (bulk,) = evaluate_all([crystal], make)
    found = []
    for miller in settings.miller:
        one = slab(crystal, miller, settings.min_thickness, settings.vacuum)
        (before,) = evaluate_all([one], make)
        area = float(np.linalg.norm(np.cross(one.cell[0], one.cell[1])))
        energy, structure = before.energy, one
        if settings.relax:
            relaxed = relaxed_or_error(one, make, RelaxSettings(fmax=settings.fmax, max_steps=settings.max_steps))
            assert relaxed.after is not None
            energy, structure = relaxed.after.energy, relaxed.atoms
        rest = len(one) / len(crystal) * bulk.energy
        per_area = JOULE_PER_M2 / (2 * area)
        found.append(
            Surface(miller, (energy - rest) * per_area, (before.energy - rest) * per_area, area, len(one), structure)
        )
    return found


def slab(crystal: Atoms, miller: tuple[int, int, int], min_thickness: float, vacuum: float) -> Atoms:
    """A slab of whole cells of a crystal in its conventional cell, at least so thick, with empty space above.

    Parameters
    ----------
    min_thickness, vacuum
        Å.
    """
    from ase.build import surface

    divisor = math.gcd(*miller)
    reduced = tuple(index // divisor for index in miller)
    spacing = 1 / float(np.linalg.norm(np.linalg.inv(crystal.cell.array) @ reduced))
    made = surface(crystal, reduced, max(1, math.ceil(min_thickness / spacing - 1e-3)), vacuum / 2, periodic=True)
    made.info["name"] = f"{name_of(crystal)}, surface {''.join(map(str, miller))}"
    return made
