"""Random packing of rigid molecules in a periodic cubic box.

Molecules start on a jittered grid with random orientation; overlaps are then pushed apart by moving and turning
the molecules as rigid bodies along the gradient of a harmonic contact energy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

AMU_PER_A3 = 1.66053906892
"""g/cm³ for one amu in one Å³ (CODATA 2022)."""
_ATTEMPTS, _STEPS, _PATIENCE = 5, 300, 20


def pack(
    molecules: Mapping[str, int], density: float, min_distance: float, contact: float, rng: np.random.Generator
) -> Atoms:
    """Return a periodic cubic box of molecules.

    Parameters
    ----------
    molecules
        Name (of ASE's molecules, or a file) and number of each.
    density
        g/cm³.
    min_distance
        Å; least distance between atoms of different molecules, images included.
    contact
        Least share of the sum of van der Waals radii.
    rng
        Source of all randomness.

    Raises
    ------
    DataError
        If a molecule is not known, or the packing does not succeed.
    """
    from ase import Atoms

    kinds = [molecule(name) for name, number in molecules.items() for _ in range(number)]
    mass = sum(kind.get_masses().sum() for kind in kinds)
    length = float((mass * AMU_PER_A3 / density) ** (1 / 3))
    owner = np.repeat(np.arange(len(kinds)), [len(kind) for kind in kinds])
    radii = _radii(np.concatenate([kind.numbers for kind in kinds]))
    for _ in range(_ATTEMPTS):
        positions = _place(kinds, length, rng)
        if _relax(positions, owner, length, radii, min_distance, contact):
            box = Atoms(
                numbers=np.concatenate([kind.numbers for kind in kinds]),
                positions=positions,
                cell=[length] * 3,
                pbc=True,
            )
            return box
    names = ", ".join(f"{number} {name}" for name, number in molecules.items())
    raise DataError(
        f"structures: {names} at {density:g} g/cm3 (box of {length:.2f} Å) cannot be packed with {min_distance:g} Å "
        f"between molecules in {_ATTEMPTS} attempts: lower density, min_distance or contact"
    )


def molecule(name: str) -> Atoms:
    """Return a molecule of ASE by its name, or one from a file, about its centre of mass.

    Raises
    ------
    DataError
        If it is neither.
    """
    from ase import build
    from ase.io import read

    if os.path.isfile(name):
        try:
            atoms = read(name)
        except Exception as error:  # ASE raises whatever its parsers meet
            raise DataError(f"structures: {name} cannot be read: {type(error).__name__}: {error}") from error
    else:
        try:
            atoms = build.molecule(name)
        except (KeyError, NotImplementedError):
            raise DataError(
                f"structures: molecule {name!r} is neither a file nor known to ASE, "
                "expected a name such as H2O or CH3OH"
            ) from None
    atoms.positions -= atoms.get_center_of_mass()
    return atoms


def _radii(numbers: np.ndarray) -> np.ndarray:
    from ase.data.vdw_alvarez import vdw_radii

    radii = np.array([vdw_radii[z] if z < len(vdw_radii) else np.nan for z in numbers])
    return np.where(np.isnan(radii), 2.0, radii)


def _place(kinds: list[Atoms], length: float, rng: np.random.Generator) -> np.ndarray:
    side = int(np.ceil(len(kinds) ** (1 / 3)))
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = cells[rng.permutation(len(cells))[: len(kinds)]]
    centers = (chosen + rng.uniform(0.25, 0.75, chosen.shape)) * length / side
    return np.concatenate([k.positions @ _rotation(rng).T + c for k, c in zip(kinds, centers, strict=True)])


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a rotation drawn uniformly (from a normalised quaternion)."""
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _relax(
    positions: np.ndarray, owner: np.ndarray, length: float, radii: np.ndarray, min_distance: float, contact: float
) -> bool:
    """Move the molecules in place until none overlap; return whether that succeeded.

    It is given up when the sum of overlaps has not fallen by a tenth for a while.
    """
    farthest = max(min_distance, 2 * contact * float(radii.max()))
    cell = np.eye(3) * length
    best, since = np.inf, 0
    for step in range(_STEPS):
        overlap, vector, i = _overlaps(positions, owner, cell, radii, min_distance, contact, farthest)
        if overlap.size == 0:
            return True
        if overlap.sum() < 0.9 * best:
            best, since = float(overlap.sum()), step
        elif step - since > _PATIENCE:
            return False
        push = np.zeros_like(positions)
        np.add.at(push, i, 0.55 * (overlap / np.linalg.norm(vector, axis=1))[:, None] * -vector)
        _move_rigidly(positions, push, owner)
    return False


def _overlaps(
    positions: np.ndarray,
    owner: np.ndarray,
    cell: np.ndarray,
    radii: np.ndarray,
    min_distance: float,
    contact: float,
    cutoff: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return overlap (Å), vector to the neighbour and centre of every pair of different molecules that is too close."""
    from ase.neighborlist import primitive_neighbor_list

    i, j, shift, vector, d = primitive_neighbor_list("ijSDd", (True,) * 3, cell, positions, cutoff)
    # a molecule is stored whole, so that the pair is within it only without a shift
    foreign = (owner[i] != owner[j]) | (shift != 0).any(axis=1)
    least = np.maximum(min_distance, contact * (radii[i] + radii[j]))
    bad = foreign & (d < least)
    return (least - d)[bad] + 1e-3, vector[bad] + 1e-12, i[bad]


def _move_rigidly(positions: np.ndarray, push: np.ndarray, owner: np.ndarray) -> None:
    for molecule in range(int(owner.max()) + 1):
        mine = owner == molecule
        moves = push[mine]
        pushed = (moves != 0).any(axis=1)
        if not pushed.any():
            continue
        center = positions[mine].mean(axis=0)
        arms = positions[mine] - center
        torque = np.cross(arms, moves).sum(axis=0)
        inertia = float((arms**2).sum()) + 1.0
        positions[mine] = center + moves.sum(axis=0) / pushed.sum() + arms @ _turn(torque / inertia).T


def _turn(vector: np.ndarray) -> np.ndarray:
    """Return the rotation about a vector by its length, at most 0.3 rad (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = min(angle, 0.3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
