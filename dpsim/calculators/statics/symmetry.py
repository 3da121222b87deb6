"""Symmetry of crystals, by spglib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.statics.source import name_of
from dpsim.errors import StageError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]


def symmetry_of(atoms: Atoms, symprec: float) -> Any:
    """The symmetry data set of a crystal.

    Raises
    ------
    StageError
        If none can be found.
    """
    import spglib

    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    try:
        found = spglib.get_symmetry_dataset(cell, symprec=symprec)
    except Exception as error:  # by version, spglib returns None or raises an error of its own
        raise StageError(f"{name_of(atoms)}: its symmetry cannot be found: {error}") from None
    if found is None:
        raise StageError(f"{name_of(atoms)}: its symmetry cannot be found within symprec {symprec:g} Å: change symprec")
    return found


def conventional(atoms: Atoms, symprec: float) -> Atoms:
    """The conventional cell of a crystal, in the standard orientation."""
    from ase import Atoms

    found = symmetry_of(atoms, symprec)
    made = Atoms(numbers=found.std_types, cell=found.std_lattice, scaled_positions=found.std_positions, pbc=True)
    made.info = dict(atoms.info)
    return made


def lattice_system(number: int) -> str:
    """Name of the system of a space group."""
    limits = (
        (2, "triclinic"), (15, "monoclinic"), (74, "orthorhombic"), (142, "tetragonal"), (167, "trigonal"),
        (194, "hexagonal"), (230, "cubic"),
    )  # fmt: skip
    return next(name for last, name in limits if number <= last)


def rotations(atoms: Atoms, symprec: float) -> Array:
    """The rotations of the point group, (n, 3, 3), in the Cartesian frame of the structure."""
    vectors = atoms.cell.array.T
    turned = vectors @ symmetry_of(atoms, symprec).rotations @ np.linalg.inv(vectors)
    return np.array(turned, dtype=np.float64)
