"""One structure with what is known about it: the unit in which data travel through dpsim."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dpsim.errors import DataError
from dpsim.fields import BY_NAME, FIELDS, Field


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure and its labels, in Å and eV; fully periodic (`cell`) or fully open (no cell)."""

    positions: np.ndarray
    """``(n_atoms, 3)`` float64, Å."""
    types: np.ndarray
    """``(n_atoms,)`` int64, indices into the `type_map` of the data set; -1 is a placeholder."""
    cell: np.ndarray | None
    """``(3, 3)`` float64, Å, rows are the vectors; None for open boundaries."""
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Values of the fields of `dpsim.fields` by name; a missing key is a missing label."""
    source: str = ""
    """Where the frame lies, for messages: ``water/set.000#12``."""
    origin: str = ""
    """What the frame was made from (file, trajectory or starting structure); splits may keep it together."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms, placeholders included."""
        return len(self.types)

    @property
    def volume(self) -> float:
        """Volume of the cell in Å³; infinity for open boundaries."""
        return float("inf") if self.cell is None else abs(float(np.linalg.det(self.cell)))

    def formula(self, type_map: Sequence[str]) -> str:
        """Return the composition in the order of `type_map`, for example ``O64H128``."""
        return formula(self.types, type_map)


def formula(types: np.ndarray, type_map: Sequence[str]) -> str:
    """Return the composition of atoms of `types`, without placeholders, in the order of `type_map`."""
    counts = np.bincount(types[types >= 0], minlength=len(type_map))
    return "".join(
        f"{name}{count if count > 1 else ''}" for name, count in zip(type_map, counts, strict=False) if count
    )


def fingerprint(frame: Frame) -> bytes:
    """Return a digest of what a model is given: equal for frames that agree to 1e-6 Å in types, cell and positions, and
    in spins and other inputs where they have some."""
    digest = hashlib.sha256(frame.types.tobytes())
    cell = np.zeros((3, 3)) if frame.cell is None else frame.cell
    inputs = [entry.name for entry in FIELDS if not entry.label and entry.name in frame.labels]
    for array in (cell, frame.positions, *(frame.labels[name] for name in inputs)):
        digest.update((np.round(array, 6) + 0.0).tobytes())
    digest.update("".join(inputs).encode())
    return digest.digest()


def value_shape(entry: Field, n_atoms: int) -> tuple[int, ...]:
    """Return the shape of one frame's value of a field; -1 stands where the data decide."""
    return entry.of_frame(n_atoms)


def check_frame(frame: Frame, n_types: int) -> None:
    """Check shapes, finiteness, types and cell of one frame.

    Raises
    ------
    DataError
        On the first thing that is wrong, naming `frame.source`.
    """
    where, n = frame.source or "frame", frame.n_atoms
    if frame.positions.shape != (n, 3):
        raise DataError(
            f"{where}: positions have shape {frame.positions.shape}, expected ({n}, 3): one row for each type"
        )
    if n and not (frame.types.min() >= -1 and frame.types.max() < n_types):
        raise DataError(
            f"{where}: types run from {frame.types.min()} to {frame.types.max()}, expected 0 to {n_types - 1} "
            "(the indices of type_map) or -1 for a placeholder"
        )
    check_finite(frame.positions, "coordinates", where)
    check_cell(frame.cell, n, where)
    for name, value in frame.labels.items():
        if name not in BY_NAME:
            raise DataError(f"{where}: {name!r} is not a field, expected one of {', '.join(BY_NAME)}")
        expected = value_shape(BY_NAME[name], n)
        if len(value.shape) != len(expected) or any(
            e not in (-1, g) for g, e in zip(value.shape, expected, strict=True)
        ):
            raise DataError(f"{where}: {name} has shape {value.shape}, expected {expected} for {n} atoms")
        check_finite(value, name, where)


def check_finite(values: np.ndarray, what: str, where: str) -> None:
    """Refuse NaN and infinity.

    Raises
    ------
    DataError
        Naming the frame, the quantity and the place in it.
    """
    if not np.isfinite(values).all():
        bad = np.argwhere(~np.isfinite(np.atleast_1d(values)))[0]
        value = float(np.atleast_1d(values)[tuple(bad)])
        atomic = what == "coordinates" or (what in BY_NAME and BY_NAME[what].kind == "atom")
        place = f" of atom {bad[0]}" if atomic else ""
        raise DataError(f"{where}: {what}{place} is {value}, expected a finite number: remove or repair the frame")


SMALLEST_VOLUME = 0.1
"""Å³ for an atom; hydrogen at 500 GPa still has 0.9."""


def check_cell(cell: np.ndarray | None, n_atoms: int, where: str) -> None:
    """Refuse a cell that is not finite or has next to no volume.

    Raises
    ------
    DataError
        Naming the frame and the volume.
    """
    if cell is None:
        return
    if cell.shape != (3, 3):
        raise DataError(f"{where}: cell has shape {cell.shape}, expected (3, 3): one row for each vector")
    check_finite(cell, "box", where)
    volume = abs(float(np.linalg.det(cell)))
    if volume <= SMALLEST_VOLUME * max(n_atoms, 1):
        raise DataError(
            f"{where}: the box has a volume of {volume:.3g} Å³ for {n_atoms} atoms, expected more than "
            f"{SMALLEST_VOLUME} Å³ an atom: correct the box, or choose open boundaries (in a data set, an "
            "empty file `nopbc` beside type.raw)"
        )
