"""Equation of state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.statics.properties_config import EosConfig
from dpsim.calculators.statics.relax import relaxed_or_error
from dpsim.calculators.statics.source import as_source, evaluate_all, name_of
from dpsim.errors import StageError
from dpsim.units import GPA_PER_EV_A3

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]


class Eos(NamedTuple):
    """A fitted equation of state.

    Attributes
    ----------
    volume, energy
        At the minimum, Å³/atom and eV/atom.
    bulk_modulus
        GPa.
    derivative
        Of the bulk modulus by the pressure.
    volumes, energies
        (n,) that it was fitted to, for an atom.
    residual
        Largest difference of fit and energies, eV/atom.
    curve
        (2, n) volumes and energies of the fit, for an atom.
    """

    volume: float
    energy: float
    bulk_modulus: float
    derivative: float
    volumes: Array
    energies: Array
    residual: float
    curve: Array


def equation_of_state(atoms: Atoms, source: Any, settings: EosConfig | None = None) -> Eos:
    """Fit an equation of state to energies at scaled volumes.

    Parameters
    ----------
    atoms
        The relaxed crystal.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    settings
        See `EosConfig`.

    Raises
    ------
    StageError
        If the energies have no minimum within the volumes, or a structure cannot be computed.
    """
    settings = settings or EosConfig()
    make = as_source(source)
    scales = np.linspace(1 - settings.volumes, 1 + settings.volumes, settings.points)
    scaled = []
    for scale in scales:
        one = atoms.copy()
        one.set_cell(atoms.cell.array * scale ** (1 / 3), scale_atoms=True)
        scaled.append(one)
    energies = energies_at_rest(scaled, make, settings)
    volumes = np.array([one.get_volume() for one in scaled]) / len(atoms)
    return _fitted(volumes, energies / len(atoms), settings, name_of(atoms))


def energies_at_rest(structures: list[Atoms], make: Any, settings: EosConfig) -> Array:
    """Energies (n,) in eV with relaxed atoms; those that symmetry holds in their places are not moved."""
    found = []
    for atoms, one in zip(structures, evaluate_all(structures, make), strict=True):
        if np.linalg.norm(one.forces, axis=1).max() <= settings.fmax:
            found.append(one.energy)
        else:
            relaxed = relaxed_or_error(atoms, make, settings.settings())
            assert relaxed.after is not None
            found.append(relaxed.after.energy)
    return np.array(found)


def _fitted(volumes: Array, energies: Array, settings: EosConfig, name: str) -> Eos:
    import warnings

    from ase.eos import EquationOfState

    lowest = int(energies.argmin())
    if lowest in (0, len(energies) - 1):
        side = "smallest" if lowest == 0 else "largest"
        raise StageError(
            f"{name}: energies have no minimum within ±{100 * settings.volumes:g} % of the volume, the {side} one is "
            "lowest: the crystal is not relaxed or unstable in this model; relax it, or widen volumes"
        )
    fit = EquationOfState(volumes, energies, eos=settings.equation)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scipy, about covariances that are not used
            volume, energy, modulus = fit.fit(warn=False)
    except (RuntimeError, ValueError) as error:
        raise StageError(f"{name}: the equation of state {settings.equation} does not fit: {error}") from None
    derivative = float(fit.eos_parameters[2])
    residual = float(np.abs(fit.func(volumes, *fit.eos_parameters) - energies).max())
    fine = np.linspace(volumes[0], volumes[-1], 101)
    curve = np.array([fine, fit.func(fine, *fit.eos_parameters)])
    return Eos(
        float(volume), float(energy), float(modulus) * GPA_PER_EV_A3, derivative, volumes, energies, residual, curve
    )
