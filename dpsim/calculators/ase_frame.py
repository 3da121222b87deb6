"""What `Potential.evaluate` is to be given for a structure of ASE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dpsim.data import Frame
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

    from dpsim.calculators.evaluate import Potential

SPIN_ARRAY = "spin"
"""Array of an ASE structure that holds spins, in μB, as structures read from extended XYZ have it."""
_VACUUM = 20.0


def frame_of(atoms: Atoms, potential: Potential) -> dict[str, Any]:
    """Arguments of `Potential.evaluate` for a structure, with what the model takes beside it.

    Raises
    ------
    DataError
        If the model takes spins and the structure has none.
    """
    periodic = bool(atoms.pbc.any())
    frame = {
        "positions": atoms.positions,
        "types": atoms.get_chemical_symbols() or np.zeros(0, dtype=int),
        "cell": atoms.cell.array if periodic else None,
        "periodic": atoms.pbc if periodic else None,
    }
    return frame | beside_structure(atoms, potential)


def as_frame(atoms: Atoms) -> Frame:
    """Return a structure as a frame without labels, its types atomic numbers; spins are kept.

    One that is periodic in some directions only lies in a box with 20 Å of vacuum in the others.
    """
    labels = {"spin": spins_of(atoms)} if atoms.has(SPIN_ARRAY) else {}
    if not atoms.pbc.any():
        return Frame(atoms.positions, atoms.numbers, None, labels)
    cell = np.array(atoms.cell)
    if not atoms.pbc.all():
        cell = np.array(atoms.cell.complete())
        for axis in np.flatnonzero(~atoms.pbc):
            others = [cell[i] for i in range(3) if i != axis]
            normal = np.cross(*others) / np.linalg.norm(np.cross(*others))
            cell[axis] = normal * (np.ptp(atoms.positions @ normal) + _VACUUM)
    return Frame(atoms.positions, atoms.numbers, cell, labels)


def beside_structure(atoms: Atoms, potential: Potential) -> dict[str, Any]:
    """What the model takes beside the structure, where the structure has it.

    ``fparam`` and ``charge_spin`` are read from ``atoms.info``, ``aparam`` from ``atoms.arrays``, else from
    ``atoms.info``, where one row stands for all atoms.

    Raises
    ------
    DataError
        If the model takes spins and the structure has none.
    """
    inputs, found = potential.facts.inputs, {}
    takes = {"fparam": inputs.n_fparam > 0, "aparam": inputs.n_aparam > 0, "charge_spin": inputs.charge_spin}
    for name in (name for name, taken in takes.items() if taken):
        if name == "aparam" and atoms.has(name):
            found[name] = atoms.get_array(name)
        elif name in atoms.info:
            found[name] = atoms.info[name]
    return found if potential.facts.spin is None else {**found, "spin": spins_of(atoms)}


def spins_of(atoms: Atoms) -> npt.NDArray[np.float64]:
    """Spins (n, 3) of a structure in μB: its array ``spin``, else its initial magnetic moments.

    Moments that are numbers, as of a collinear calculation, are along z.

    Raises
    ------
    DataError
        If it has neither, or they are of another shape.
    """
    name = SPIN_ARRAY if atoms.has(SPIN_ARRAY) else "initial_magmoms"
    if not atoms.has(name):
        raise DataError(
            "the model takes spins and the structure has none: give it some with "
            "atoms.set_initial_magnetic_moments, one number or three an atom, in μB"
        )
    values = np.asarray(atoms.get_array(name), dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None] * np.array([0.0, 0.0, 1.0])
    if values.shape != (len(atoms), 3):
        raise DataError(f"{name} has shape {values.shape}, expected one number or three for each of {len(atoms)} atoms")
    return values
