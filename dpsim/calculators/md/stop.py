"""Conditions that end a run before its time: models that disagree, bonds that break, a wall time that is over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.deck import Span
from dpsim.calculators.md.deviation_output import MAX_FORCE, step_of
from dpsim.calculators.md.record import Record, Stop
from dpsim.calculators.md.segments import MinimizeSegment
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
BOND = 1.25
"""Pairs nearer than this times the sum of their covalent radii are bonds."""


class Deadline:
    """The end of a wall time that begins now, in seconds; never, if it is None."""

    def __init__(self, walltime: float | None) -> None:
        self._walltime, self._begun = walltime, time.monotonic()

    def passed(self) -> str:
        """Say that the time is over; empty as long as it is not."""
        if self._walltime is None or time.monotonic() - self._begun <= self._walltime:
            return ""
        return f"the walltime of {self._walltime:g} s is over"


class Bonds(NamedTuple):
    """The bonds of a structure: pairs (i, j) with the image of j, and their lengths in Å."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    shifts: NDArray[np.int64]
    lengths: Array


def bonds_of(atoms: Atoms) -> Bonds:
    """Find the bonds of a structure, each once.

    Parameters
    ----------
    atoms
        With any periodicity. Positions may lie outside the cell; the images count from where they lie.

    Raises
    ------
    DataError
        If there is none.
    """
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    radii = BOND * covalent_radii[atoms.numbers]
    i, j, shifts, lengths = neighbor_list("ijSd", atoms, radii)
    once = (i < j) | ((i == j) & (shifts @ np.array([100, 10, 1]) > 0))
    if not once.any():
        raise DataError(
            f"stop_if.max_bond_stretch: the start structure has no pair of atoms nearer than {BOND} times the sum of "
            "their covalent radii, so no bond to watch: remove it"
        )
    return Bonds(i[once], j[once], shifts[once], lengths[once])


class Stretch(NamedTuple):
    """The bond that is stretched most: its atoms, and its length in units of that at the start."""

    i: int
    j: int
    ratio: float


def largest_stretch(bonds: Bonds, positions: Array, cell: Array) -> Stretch:
    """Find the bond that is stretched most.

    Parameters
    ----------
    positions
        (n, 3) Å, not wrapped since the bonds were found.
    cell
        (3, 3) Å.
    """
    vectors = positions[bonds.j] - positions[bonds.i] + bonds.shifts @ cell
    ratios = np.linalg.norm(vectors, axis=1) / bonds.lengths
    top = int(np.argmax(ratios))
    return Stretch(int(bonds.i[top]), int(bonds.j[top]), float(ratios[top]))


class Watch:
    """The conditions of one run.

    Parameters
    ----------
    config
        The run.
    start
        The structure it starts with.
    """

    def __init__(self, config: MDConfig, start: Atoms) -> None:
        self.limits = config.stop_if
        self.bonds = None if self.limits.max_bond_stretch is None else bonds_of(start)
        self.symbols = start.get_chemical_symbols()

    def deviation(self, deviation: float) -> str | None:
        """Reason to stop, if the models deviate by this in the force on an atom."""
        limit = self.limits.max_deviation_force
        if limit is None or deviation <= limit:
            return None
        return (
            f"the models deviate by {deviation:.4g} in the force on an atom, which passes "
            f"stop_if.max_deviation_force ({limit:g}): train them on structures like these, or raise the limit"
        )

    def frame(self, positions: Array, cell: Array) -> str | None:
        """Reason to stop, if a bond is too long; as in `largest_stretch`."""
        limit = self.limits.max_bond_stretch
        if self.bonds is None or limit is None:
            return None
        found = largest_stretch(self.bonds, positions, cell)
        if found.ratio <= limit:
            return None
        bond = f"{self.symbols[found.i]}{found.i}-{self.symbols[found.j]}{found.j}"
        return (
            f"the bond {bond} has {found.ratio:.3g} times its length at the start, which passes "
            f"stop_if.max_bond_stretch ({limit:g}): train the model on structures like these, or raise the limit"
        )

    def first(self, record: Record) -> Stop | None:
        """Where the first of the conditions was met."""
        found = []
        if self.limits.max_deviation_force is not None:
            for line in record.deviations()[1:]:
                if (reason := self.deviation(float(line.split()[MAX_FORCE]))) is not None:
                    found.append(_stop(record.layout, step_of(line), reason))
                    break
        if self.bonds is not None:
            for frame in record.frames():
                if (reason := self.frame(frame.atoms.positions, np.array(frame.atoms.cell))) is not None:
                    found.append(Stop(frame.segment, frame.step, frame.time, reason))
                    break
        return min(found, key=lambda stop: stop.step) if found else None


def _stop(layout: Sequence[Span], step: int, reason: str) -> Stop:
    moving = [span for span in layout if not isinstance(span.segment, MinimizeSegment)]
    span = next((s for s in moving if s.begin <= step <= s.end), moving[-1])
    assert not isinstance(span.segment, MinimizeSegment)
    return Stop(span.index, step, span.time + (step - span.begin) * span.segment.step_length, reason)
