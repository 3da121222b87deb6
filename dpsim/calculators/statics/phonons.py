"""Harmonic phonons by finite displacements: phonopy's displacements and force constants, forces of any source."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.statics.phonon_bands import Bands, Imaginary, band_structure, imaginary_modes
from dpsim.calculators.statics.phonon_config import PhononSettings
from dpsim.calculators.statics.relax import Relaxed
from dpsim.calculators.statics.relax_kept import relaxed_once
from dpsim.calculators.statics.source import Progress, as_source, evaluate_all, name_of
from dpsim.data.files import new_file
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
MIN_LENGTH = 10.0
"""Å; least height of a supercell if nothing is said."""
_ACOUSTIC = 1e-3
"""THz; modes below are left out of thermal properties: they are the translations of the crystal at Γ."""
_CHUNK = 8


@dataclass(frozen=True)
class Dos:
    """Density of states: (n,) THz, (n,) states/THz of the primitive cell, and the share of each element."""

    frequencies: Array
    total: Array
    elements: dict[str, Array]


@dataclass(frozen=True)
class Thermal:
    """Harmonic thermal properties for a mole of primitive cells: (n,) K, kJ/mol, J/K/mol, J/K/mol."""

    temperatures: Array
    free_energy: Array
    entropy: Array
    heat_capacity: Array


@dataclass(frozen=True)
class Phonons:
    """Phonons of one structure.

    Attributes
    ----------
    phonon
        The `phonopy.Phonopy` object, with displacements, forces and force constants.
    atoms
        The structure that they are of, after its relaxation.
    relaxed
        The relaxation; None if there was none.
    displacements
        Number of displaced supercells.
    drift
        Longest mean force of a supercell before it was subtracted, eV/Å.
    zero_point
        Zero-point energy, eV/atom.
    gamma
        (3 n,) frequencies at Γ, THz; imaginary ones negative.
    """

    phonon: Any
    atoms: Atoms
    relaxed: Relaxed | None
    displacements: int
    drift: float
    bands: Bands
    dos: Dos
    thermal: Thermal | None
    imaginary: Imaginary
    zero_point: float
    gamma: Array

    @property
    def highest(self) -> float:
        """Highest frequency of mesh and bands, THz."""
        return max(float(self.phonon.mesh.frequencies.max()), self.bands.highest)


def phonons(
    atoms: Atoms,
    source: Any,
    settings: PhononSettings | None = None,
    *,
    nac: Path | None = None,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> Phonons:
    """Compute the phonons of a crystal.

    Parameters
    ----------
    atoms
        The crystal, periodic in three directions; its primitive cell is found.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    settings
        See `PhononSettings`.
    nac
        File BORN of phonopy.
    kept
        Folder for forces that are done, so that a killed calculation goes on.
    progress
        Called as ``progress(done, total, message)``.

    Raises
    ------
    DataError
        If the structure is not periodic in three directions, or `nac` does not fit to it.
    StageError
        If the structure cannot be relaxed, or a force cannot be computed.
    """
    settings = settings or PhononSettings()
    if not (atoms.pbc.all() and atoms.cell.rank == 3):
        pbc = [bool(flag) for flag in atoms.pbc]
        raise DataError(
            f"{name_of(atoms)}: phonons need a crystal that is periodic in three directions, found pbc {pbc}"
        )
    relaxed = None
    if settings.relax is not False:
        if progress is not None:
            progress(0, None, "relaxing")
        relaxed = relaxed_once(atoms, source, settings.relax, kept)
        atoms = relaxed.atoms
    phonon = _displaced(atoms, settings)
    if nac is not None:
        phonon.nac_params = _born(phonon, nac)
    forces, drift = _forces(phonon, atoms, source, kept, progress)
    phonon.forces = forces
    _force_constants(phonon, settings)
    if progress is not None:
        progress(len(forces), len(forces), "bands and density of states")
    bands = band_structure(phonon, settings)
    phonon.run_mesh(settings.mesh, is_mesh_symmetry=not settings.projected, with_eigenvectors=settings.projected)
    dos, thermal = _dos(phonon, settings), _thermal(phonon, settings)
    imaginary = imaginary_modes(phonon, bands, settings.imaginary.tolerance)
    gamma = np.array(phonon.run_qpoints([[0.0, 0.0, 0.0]]).frequencies[0])
    return Phonons(
        phonon, atoms, relaxed, len(forces), drift, bands, dos, thermal, imaginary, _zero_point(phonon), gamma
    )


def supercell_matrix(atoms: Atoms, settings: PhononSettings) -> NDArray[np.int64]:
    """The supercell as a (3, 3) matrix of integers."""
    if settings.supercell is not None:
        given = np.array(settings.supercell, dtype=np.int64)
        return np.diag(given) if given.ndim == 1 else given
    return np.diag(repetitions(atoms, settings.min_length or MIN_LENGTH))


def repetitions(atoms: Atoms, min_length: float) -> list[int]:
    """Repetitions along the cell vectors that give each height of the cell at least `min_length` (Å)."""
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    return [max(1, math.ceil(min_length / height - 1e-3)) for height in heights]


def _displaced(atoms: Atoms, settings: PhononSettings) -> Any:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(), cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses() if atoms.has("masses") else None,
    )  # fmt: skip
    magnetic = atoms.has("spin") or bool(atoms.has("initial_magmoms") and np.any(atoms.get_initial_magnetic_moments()))
    with warnings.catch_warnings():
        # phonopy tells those who come from its version 3 that it looks for the primitive cell, which is meant here.
        warnings.filterwarnings("ignore", message="primitive_matrix defaulted to 'auto'")
        phonon = Phonopy(
            unit, supercell_matrix=supercell_matrix(atoms, settings), primitive_matrix="auto",
            symprec=settings.symprec, is_symmetry=not magnetic,  # atoms of unequal moments are not equivalent
        )  # fmt: skip
    phonon.generate_displacements(distance=settings.displacement)
    return phonon


def _supercells(phonon: Any, atoms: Atoms) -> Iterator[Atoms]:
    """The displaced supercells with what the structure carries for the model: spins, parameters."""
    from ase import Atoms

    places = phonon.supercell.u2u_map
    origin = np.array([places[index] for index in phonon.supercell.s2u_map])
    info = {key: atoms.info[key] for key in ("fparam", "charge_spin") if key in atoms.info}
    carried = {name: atoms.arrays[name][origin] for name in ("spin", "initial_magmoms", "aparam") if atoms.has(name)}
    for number, cell in enumerate(phonon.supercells_with_displacements):
        made = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True, info=dict(info))
        for name, values in carried.items():
            made.set_array(name, values)
        made.info["name"] = f"{name_of(atoms)}, displacement {number}"
        yield made


def _forces(
    phonon: Any, atoms: Atoms, source: Any, kept: Path | None, progress: Progress | None
) -> tuple[Array, float]:
    make = as_source(source)
    cells = list(_supercells(phonon, atoms))
    found: list[Array] = []
    for begin in range(0, len(cells), _CHUNK):
        part = cells[begin : begin + _CHUNK]
        path = kept / f"forces-{begin:05d}.npy" if kept is not None else None
        if path is not None and path.is_file():
            forces = np.load(path, allow_pickle=False)
        else:
            if progress is not None:
                progress(begin, len(cells), f"forces of displacements in {len(cells[0])} atoms")
            forces = np.array([one.forces for one in evaluate_all(part, make)])
            if path is not None:
                _keep(path, forces)
        found += list(forces)
    all_forces = np.array(found)
    mean = all_forces.mean(axis=1, keepdims=True)
    return all_forces - mean, float(np.linalg.norm(mean, axis=2).max())


def _keep(path: Path, forces: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, forces)


def _force_constants(phonon: Any, settings: PhononSettings) -> None:
    if settings.force_constants == "symfc":
        phonon.produce_force_constants(fc_calculator="symfc", show_drift=False)
    else:
        phonon.produce_force_constants(fc_calculator="traditional", show_drift=False)
        phonon.symmetrize_force_constants(show_drift=False)


def _born(phonon: Any, path: Path) -> Any:
    from phonopy.file_IO import parse_BORN

    try:
        return parse_BORN(phonon.primitive, symprec=phonon.symmetry.tolerance, filename=path)
    except (OSError, ValueError, IndexError, RuntimeError, AssertionError) as error:
        raise DataError(f"{path} is no file BORN of phonopy for this primitive cell: {error}") from None


def _dos(phonon: Any, settings: PhononSettings) -> Dos:
    phonon.run_total_dos()
    total = phonon.total_dos
    frequencies, values = np.array(total.frequency_points), np.array(total.dos)
    elements: dict[str, Array] = {}
    if settings.projected:
        phonon.run_projected_dos(freq_min=frequencies[0], freq_max=frequencies[-1], freq_pitch=np.diff(frequencies)[0])
        found = phonon.projected_dos
        for symbol, one in zip(phonon.primitive.symbols, found.projected_dos, strict=True):
            shares = np.interp(frequencies, found.frequency_points, one)
            elements[symbol] = elements.get(symbol, np.zeros_like(shares)) + shares
    return Dos(frequencies, values, elements)


def _thermal(phonon: Any, settings: PhononSettings) -> Thermal | None:
    if settings.thermal is False:
        return None
    wanted = settings.thermal
    phonon.run_thermal_properties(t_min=wanted.tmin, t_max=wanted.tmax, t_step=wanted.step, cutoff_frequency=_ACOUSTIC)
    found = phonon.thermal_properties
    return Thermal(
        *(np.array(values) for values in (found.temperatures, found.free_energy, found.entropy, found.heat_capacity))
    )


def _zero_point(phonon: Any) -> float:
    """Half a quantum for each real mode, eV/atom."""
    quantum = 0.00413566766225  # Planck's constant in eV/THz (ase.units, CODATA 2014)
    mesh = phonon.mesh
    weights = mesh.weights / mesh.weights.sum()
    real = np.clip(mesh.frequencies, 0.0, None).sum(axis=1)
    return float(0.5 * quantum * weights @ real / len(phonon.primitive))
