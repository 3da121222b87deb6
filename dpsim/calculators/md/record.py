"""What a run of molecular dynamics left behind, whichever engine made it, and the part of it that counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dpsim.calculators.md.deck import Span
from dpsim.calculators.md.deviation_output import step_of
from dpsim.calculators.md.output import MDFrame, ThermoRow
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms


class Record(Protocol):
    """A run that has ended, in the frame of the user."""

    @property
    def start(self) -> Atoms:
        """Structure the run began with: elements, masses, periodicity."""
        ...

    @property
    def layout(self) -> tuple[Span, ...]:
        """The segments."""
        ...

    @property
    def starts(self) -> int:
        """How often the engine was started."""
        ...

    def frames(self, segments: Sequence[int] | None = None) -> Iterator[MDFrame]:
        """Frames in order, each step once; `segments` chooses some of them."""
        ...

    def rows(self) -> list[ThermoRow]:
        """Thermodynamic lines in order, each (segment, step) once."""
        ...

    def deviations(self) -> list[str]:
        """Header and lines about the deviation of several models; none if it was not written."""
        ...

    def speed(self) -> tuple[float, int]:
        """Seconds in the integrator and steps done in them."""
        ...

    def last(self) -> Atoms:
        """The last state, with its velocities."""
        ...

    def write_final_data(self, path: Path) -> None:
        """Write the last state as a LAMMPS data file."""
        ...


class Stop(NamedTuple):
    """Where a condition of `stop_if` ended a run."""

    segment: int
    step: int
    time: float
    """ps"""
    reason: str


@dataclass(frozen=True)
class StoppedRecord:
    """A run up to the step at which it was stopped; what the engine did beyond is left out.

    The engine is looked at now and then, so it may go on for a while; what counts does not depend on when.
    """

    whole: Record
    stop: Stop

    @property
    def start(self) -> Atoms:
        """See `Record.start`."""
        return self.whole.start

    @property
    def layout(self) -> tuple[Span, ...]:
        """See `Record.layout`."""
        return self.whole.layout

    @property
    def starts(self) -> int:
        """See `Record.starts`."""
        return self.whole.starts

    def _counts(self, segment: int, step: int) -> bool:
        return (segment, step) <= (self.stop.segment, self.stop.step)

    def frames(self, segments: Sequence[int] | None = None) -> Iterator[MDFrame]:
        """See `Record.frames`."""
        return (frame for frame in self.whole.frames(segments) if self._counts(frame.segment, frame.step))

    def rows(self) -> list[ThermoRow]:
        """See `Record.rows`."""
        return [row for row in self.whole.rows() if self._counts(row.segment, row.step)]

    def deviations(self) -> list[str]:
        """See `Record.deviations`."""
        lines = self.whole.deviations()
        return [*lines[:1], *(line for line in lines[1:] if step_of(line) <= self.stop.step)]

    def speed(self) -> tuple[float, int]:
        """See `Record.speed`."""
        return self.whole.speed()

    def last(self) -> Atoms:
        """The last frame that counts; with velocities where frames have them."""
        found = None
        for frame in self.frames():
            found = frame.atoms
        if found is None:
            raise DataError(
                f"the run was stopped at step {self.stop.step}, before its first frame ({self.stop.reason}): "
                "write frames more often (dump.every), or raise the limit"
            )
        return found

    def write_final_data(self, path: Path) -> None:
        """See `Record.write_final_data`."""
        from dpsim.calculators.lammps_data import lammps_box, write_data

        atoms = self.last()
        elements = tuple(dict.fromkeys(atoms.get_chemical_symbols()))
        write_data(path, atoms, elements, lammps_box(atoms), tilt=False, velocities=atoms.has("momenta"))
