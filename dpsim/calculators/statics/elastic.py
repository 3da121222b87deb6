"""Elastic constants from stresses under small strains.

Voigt order: xx, yy, zz, yz, xz, xy; shear strains are counted twice (engineering strains).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.statics.properties_config import ElasticConfig
from dpsim.calculators.statics.relax import relaxed_or_error
from dpsim.calculators.statics.source import Evaluated, as_source, evaluate_all, name_of
from dpsim.calculators.statics.symmetry import lattice_system, rotations, symmetry_of
from dpsim.errors import StageError
from dpsim.units import GPA_PER_EV_A3

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_INDEPENDENT = {
    "cubic": "11 12 44",
    "hexagonal": "11 12 13 33 44",
    "trigonal": "11 12 13 14 33 44",
    "tetragonal": "11 12 13 33 44 66",
    "orthorhombic": "11 12 13 22 23 33 44 55 66",
    "monoclinic": "11 12 13 15 22 23 25 33 35 44 46 55 66",
    "triclinic": " ".join(f"{i}{j}" for i in range(1, 7) for j in range(i, 7)),
}
"""Constants that symmetry leaves, in the standard orientation, of the larger Laue group where there are two."""
_LOW = {"trigonal": (148, "15"), "tetragonal": (88, "16")}
"""Last space group of the smaller Laue group, and the constant that it has more."""


class Elastic(NamedTuple):
    """Elastic constants, GPa.

    Attributes
    ----------
    matrix
        (6, 6) in the frame of the structure, with the symmetry of the crystal.
    standard
        (6, 6) in the standard orientation of the crystal (a along x, or as spglib has it).
    constants
        Those that symmetry leaves, in the standard orientation, by name: C11, C12, ...
    system
        Of the lattice: cubic, hexagonal, ...
    asymmetry
        Largest change of a constant when the symmetry was put in: the error of strains and relaxation.
    voigt, reuss, hill
        Bulk and shear modulus of the polycrystal as the upper and lower bound and their mean.
    young, poisson, anisotropy
        Of the mean; the anisotropy is the universal one, 0 for an isotropic crystal.
    eigenvalues
        (6,) of the matrix; one below zero means that the crystal is unstable.
    residual_stress
        Largest component of the stress of the crystal without strain.
    """

    matrix: Array
    standard: Array
    constants: dict[str, float]
    system: str
    asymmetry: float
    voigt: tuple[float, float]
    reuss: tuple[float, float]
    hill: tuple[float, float]
    young: float
    poisson: float
    anisotropy: float
    eigenvalues: Array
    residual_stress: float

    @property
    def stable(self) -> bool:
        """Whether every small strain costs energy."""
        return bool(self.eigenvalues.min() > 0)


def elastic_constants(atoms: Atoms, source: Any, settings: ElasticConfig | None = None) -> Elastic:
    """Compute the elastic constants of a relaxed crystal.

    Parameters
    ----------
    atoms
        The crystal, relaxed with its cell.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    settings
        See `ElasticConfig`.

    Raises
    ------
    StageError
        If a structure cannot be computed or relaxed, or no stress is given.
    """
    settings = settings or ElasticConfig()
    make = as_source(source)
    sizes = np.array(sorted({sign * size for size in settings.strains for sign in (-1, 1)}))
    strains = [(component, size) for component in range(6) for size in sizes]
    strained = [_strained(atoms, component, size) for component, size in strains]
    rest, *found = evaluate_all([atoms, *strained], make)
    stresses = np.array([
        _stress_at_rest(one, was, make, settings) for one, was in zip(strained, found, strict=True)
    ]).reshape(6, len(sizes), 6)  # fmt: skip
    slopes = np.einsum("s,isj->ij", sizes, stresses) / (sizes**2).sum()  # σ_j = C_ji ε_i; an even part cancels
    measured = 0.5 * (slopes + slopes.T) * GPA_PER_EV_A3
    matrix = symmetrized(measured, rotations(atoms, settings.symprec))
    residual = float(np.abs(_voigt_stress(rest, atoms)).max()) * GPA_PER_EV_A3
    return _derived(atoms, settings, matrix, float(np.abs(matrix - measured).max()), residual)


def _strained(atoms: Atoms, component: int, size: float) -> Atoms:
    i, j = VOIGT[component]
    strain = np.zeros((3, 3))
    strain[i, j] = strain[j, i] = size if i == j else size / 2
    made = atoms.copy()
    made.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    made.info["name"] = f"{name_of(atoms)}, strain {size:+g} of component {component + 1}"
    return made


def _stress_at_rest(atoms: Atoms, found: Evaluated, make: Any, settings: ElasticConfig) -> Array:
    if np.linalg.norm(found.forces, axis=1).max() > settings.fmax:
        after = relaxed_or_error(atoms, make, settings.settings()).after
        assert after is not None
        found = Evaluated(after.energy, found.forces, after.stress)
    return _voigt_stress(found, atoms)


def _voigt_stress(found: Evaluated, atoms: Atoms) -> Array:
    if found.stress is None:
        raise StageError(f"{name_of(atoms)}: no stress is given, which elastic constants are made of")
    return np.array([found.stress[i, j] for i, j in VOIGT])


def _derived(atoms: Atoms, settings: ElasticConfig, matrix: Array, asymmetry: float, residual: float) -> Elastic:
    symmetry = symmetry_of(atoms, settings.symprec)
    standard = rotated(matrix, np.array(symmetry.std_rotation_matrix))
    system = lattice_system(int(symmetry.number))
    names = _INDEPENDENT[system].split()
    last, more = _LOW.get(system, (0, ""))
    names += [more] if symmetry.number <= last else []
    constants = {f"C{name}": float(standard[int(name[0]) - 1, int(name[1]) - 1]) for name in names}
    voigt, reuss = _voigt(matrix), _reuss(matrix)
    hill = (0.5 * (voigt[0] + reuss[0]), 0.5 * (voigt[1] + reuss[1]))
    bulk, shear = hill
    return Elastic(
        matrix, standard, constants, system, asymmetry, voigt, reuss, hill,
        9 * bulk * shear / (3 * bulk + shear), (3 * bulk - 2 * shear) / (2 * (3 * bulk + shear)),
        5 * voigt[1] / reuss[1] + voigt[0] / reuss[0] - 6, np.array(np.linalg.eigvalsh(matrix), dtype=np.float64),
        residual,
    )  # fmt: skip


def _voigt(c: Array) -> tuple[float, float]:
    """Bulk and shear modulus of uniform strain."""
    diagonal, off = np.trace(c[:3, :3]), c[0, 1] + c[0, 2] + c[1, 2]
    return float((diagonal + 2 * off) / 9), float((diagonal - off + 3 * np.trace(c[3:, 3:])) / 15)


def _reuss(c: Array) -> tuple[float, float]:
    """Bulk and shear modulus of uniform stress."""
    s = np.linalg.inv(c)
    diagonal, off = np.trace(s[:3, :3]), s[0, 1] + s[0, 2] + s[1, 2]
    return float(1 / (diagonal + 2 * off)), float(15 / (4 * diagonal - 4 * off + 3 * np.trace(s[3:, 3:])))


# ---- the tensor ----------------------------------------------------------------------------------


def tensor_of(matrix: Array) -> Array:
    """The (3, 3, 3, 3) tensor of a (6, 6) matrix of stiffness."""
    place = np.zeros((3, 3), dtype=int)
    for number, (i, j) in enumerate(VOIGT):
        place[i, j] = place[j, i] = number
    return np.array(matrix[place[:, :, None, None], place[None, None, :, :]])


def matrix_of(tensor: Array) -> Array:
    """The (6, 6) matrix of a (3, 3, 3, 3) tensor of stiffness."""
    return np.array([[tensor[i, j, k, m] for k, m in VOIGT] for i, j in VOIGT])


def rotated(matrix: Array, rotation: Array) -> Array:
    """The matrix in a frame that is turned: ``x' = rotation @ x``."""
    return matrix_of(np.einsum("ai,bj,ck,dl,ijkl->abcd", *(4 * [rotation]), tensor_of(matrix), optimize=True))


def symmetrized(matrix: Array, operations: Array) -> Array:
    """The mean of the matrix over the operations (n, 3, 3) of a point group."""
    return np.array(np.mean([rotated(matrix, one) for one in operations], axis=0))
