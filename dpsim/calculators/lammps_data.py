"""The structure as LAMMPS wants it: a rotated cell, boundary conditions, a data file with masses and type labels.

LAMMPS keeps the first cell vector along x and the second in the xy plane. `LammpsBox` remembers the rotation,
so that every frame comes back in the orientation it was given in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsim.data.files import write_text
from dpsim.errors import DataError
from dpsim.units import ASE_TIME_PER_PS

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

OPEN_MARGIN = 5.0
"""Å of empty space kept around the atoms along a direction without periodicity."""


@dataclass(frozen=True)
class LammpsBox:
    """How the cell of the user lies in LAMMPS.

    Attributes
    ----------
    vectors
        (3, 3) Å, lower triangular with a positive diagonal: ``cell = vectors @ rotation``.
    rotation
        (3, 3) orthogonal; improper where the cell of the user is left-handed.
    origin
        (3,) Å, lower corner of the box in LAMMPS's frame.
    cell
        (3, 3) Å, the cell as given.
    pbc
        Periodicity along each cell vector.
    """

    vectors: Array
    rotation: Array
    origin: Array
    cell: Array
    pbc: tuple[bool, bool, bool]

    @property
    def triclinic(self) -> bool:
        """Whether the box has tilt factors."""
        return bool(np.any(np.abs(self.vectors[np.tril_indices(3, -1)]) > 1e-10))

    @property
    def boundary(self) -> str:
        """Arguments of LAMMPS's ``boundary``; ``m`` grows with the atoms and never loses one."""
        return " ".join("p" if periodic else "m" for periodic in self.pbc)

    def to_lammps(self, vectors: Array) -> Array:
        """Rotate rows into LAMMPS's frame."""
        return vectors @ self.rotation.T

    def from_lammps(self, vectors: Array) -> Array:
        """Rotate rows back into the frame of the user."""
        return vectors @ self.rotation

    def positions_back(self, positions: Array, origin: Array) -> Array:
        """Positions of a LAMMPS frame in the frame of the user.

        A barostat moves the corner of the box; along periodic directions it is brought back to where it was.
        """
        shift = np.where(self.pbc, origin - self.origin, 0.0)
        return self.from_lammps(positions - shift)

    def cell_back(self, vectors: Array) -> Array:
        """Cell of a LAMMPS frame in the frame of the user; rows without periodicity stay as given."""
        return np.where(np.array(self.pbc)[:, None], self.from_lammps(vectors), self.cell)


def lammps_box(atoms: Atoms) -> LammpsBox:
    """Find the box of a structure.

    Parameters
    ----------
    atoms
        Periodic in any subset of directions; along the others the cell vector is ignored and the box follows the atoms.

    Raises
    ------
    DataError
        If a direction is periodic but the cell has no volume.
    """
    from ase.geometry import complete_cell

    pbc = tuple(bool(flag) for flag in atoms.pbc)
    cell = np.array(atoms.cell, dtype=float)
    lattice = np.where(np.array(pbc)[:, None], cell, 0.0)
    if (
        any(not lattice[axis].any() for axis in range(3) if pbc[axis])
        or abs(np.linalg.det(complete_cell(lattice))) < 1e-6
    ):
        raise DataError(
            f"the start structure is periodic along {pbc} but its cell {cell.tolist()} has no volume: give a cell"
        )
    vectors, rotation = _triangular(np.array(complete_cell(lattice), dtype=float))
    positions = atoms.positions @ rotation.T
    origin = np.zeros(3)
    for axis in range(3):
        if not pbc[axis]:
            low, high = positions[:, axis].min() - OPEN_MARGIN, positions[:, axis].max() + OPEN_MARGIN
            origin[axis] = low
            vectors[axis] = np.eye(3)[axis] * (high - low)
    return LammpsBox(vectors, rotation, origin, cell, (pbc[0], pbc[1], pbc[2]))


def _triangular(cell: Array) -> tuple[Array, Array]:
    if not np.any(np.abs(np.triu(cell, 1)) > 1e-12) and np.all(np.diag(cell) > 0):
        return np.tril(cell), np.eye(3)
    orthogonal, upper = np.linalg.qr(cell.T)
    signs = np.diag(np.where(np.diag(upper) < 0, -1.0, 1.0))
    return np.tril(upper.T @ signs), signs @ orthogonal.T


def elements_of(atoms: Atoms, type_map: tuple[str, ...], place: str = "the start structure") -> tuple[str, ...]:
    """Elements of a structure in the order of the model's `type_map`: LAMMPS type 1, 2, …

    Raises
    ------
    DataError
        If the model does not know an element.
    """
    present = set(atoms.get_chemical_symbols())
    if unknown := sorted(present - set(type_map)):
        first = atoms.get_chemical_symbols().index(unknown[0])
        raise DataError(
            f"{place} contains {', '.join(unknown)} (atom {first}), but the model knows only {', '.join(type_map)}: "
            "use a model trained with that element"
        )
    return tuple(element for element in type_map if element in present)


def write_data(
    path: Path,
    atoms: Atoms,
    elements: tuple[str, ...],
    box: LammpsBox,
    *,
    tilt: bool,
    velocities: bool,
    spins: Array | None = None,
) -> None:
    """Write a LAMMPS data file, ``atom_style atomic`` (with spins ``spin``), ``units metal``.

    Parameters
    ----------
    path
        File to write.
    atoms
        Structure; its masses are used, so isotopes count.
    elements
        Element of LAMMPS type 1, 2, …
    box
        From `lammps_box`.
    tilt
        Write tilt factors even if they are zero, so that a barostat may change them.
    velocities
        Write the velocities of `atoms`.
    spins
        (n_atoms, 3) μB.

    Raises
    ------
    DataError
        If atoms of one element differ in mass.
    """
    types = np.array([elements.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()])
    lines = ["dpsim start structure", "", f"{len(atoms)} atoms", f"{len(elements)} atom types", ""]
    lines += _bounds(box, tilt)
    lines += ["", "Atom Type Labels", "", *(f"{i} {element}" for i, element in enumerate(elements, 1))]
    lines += ["", "Masses", "", *(f"{i} {mass!r}" for i, mass in enumerate(_masses(atoms, elements), 1))]
    lines += ["", f"Atoms # {'atomic' if spins is None else 'spin'}", ""]
    rows = box.to_lammps(atoms.positions)
    if spins is not None:
        rows = np.concatenate([rows, _spin_columns(box.to_lammps(spins))], axis=1)
    lines += [f"{i} {t} {_numbers(row)}" for i, (t, row) in enumerate(zip(types, rows, strict=True), 1)]
    if velocities:
        speeds = box.to_lammps(atoms.get_velocities() * ASE_TIME_PER_PS)
        lines += ["", "Velocities", "", *(f"{i} {_numbers(row)}" for i, row in enumerate(speeds, 1))]
    write_text(path, "\n".join(lines) + "\n")


def _spin_columns(spins: Array) -> Array:
    """Direction and length (n, 4) of spins (n, 3); LAMMPS wants a direction of those without length, too."""
    length = np.linalg.norm(spins, axis=1, keepdims=True)
    direction = np.where(length > 0, spins / np.where(length > 0, length, 1.0), [0.0, 0.0, 1.0])
    return np.concatenate([direction, length], axis=1)


def _bounds(box: LammpsBox, tilt: bool) -> list[str]:
    lines = [
        f"{float(low)!r} {float(low + length)!r} {axis}lo {axis}hi"
        for axis, low, length in zip("xyz", box.origin, np.diag(box.vectors), strict=True)
    ]
    if tilt or box.triclinic:
        lines.append(f"{_numbers([box.vectors[1, 0], box.vectors[2, 0], box.vectors[2, 1]])} xy xz yz")
    return lines


def _masses(atoms: Atoms, elements: tuple[str, ...]) -> list[float]:
    symbols, masses = np.array(atoms.get_chemical_symbols()), atoms.get_masses()
    result = []
    for element in elements:
        found = np.unique(masses[symbols == element])
        if len(found) != 1 or not found[0] > 0:
            raise DataError(
                f"atoms of {element} have the masses {found.tolist()} amu, expected one positive mass for each element"
            )
        result.append(float(found[0]))
    return result


def _numbers(row: Any) -> str:
    return " ".join(repr(float(value)) for value in row)
