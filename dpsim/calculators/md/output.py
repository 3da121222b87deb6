"""What LAMMPS left behind, read back: thermo lines of a growing log, frames of dumps, several attempts made one run."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np

from dpsim.calculators.lammps_data import Array, LammpsBox
from dpsim.calculators.md.deck import FINAL_DATA, FINAL_DUMP, FINISHED, MARKER, Attempt, Span, dump_name
from dpsim.calculators.md.deviation_output import merged_deviation
from dpsim.calculators.md.segments import MinimizeSegment, interval_steps
from dpsim.data.files import added_lines
from dpsim.errors import DataError
from dpsim.units import ASE_TIME_PER_PS

if TYPE_CHECKING:
    from ase import Atoms

FORCES = "dpsim_forces"
"""Array of a frame that holds the forces of the model, eV/Å."""
_ROW = re.compile(r"^  - \[(.*)\]\s*$")
_LOOP = re.compile(r"^Loop time of (\S+) on \d+ procs for (\d+) steps")
_ERROR = re.compile(r"^ERROR(?: on proc \d+)?: (.*)")


class ThermoRow(NamedTuple):
    """One line of thermodynamic output; ps, K, eV, bar, Å³."""

    segment: int
    step: int
    time: float
    temperature: float
    potential: float
    kinetic: float
    total: float
    pressure: float
    volume: float

    @property
    def finite(self) -> bool:
        """Whether all numbers are numbers."""
        return all(math.isfinite(value) for value in self)


def log_name(attempt: int) -> str:
    """File name of the log of one attempt."""
    return f"log-{attempt:03d}.lammps"


@dataclass
class LogFollower:
    """Reads a LAMMPS log while it is being written.

    Attributes
    ----------
    path
        The log; may not exist yet.
    segment
        The segment that is running; -1 before the first.
    finished
        Whether the deck came to its end.
    error
        LAMMPS's own error message.
    loop_seconds, loop_steps
        Time spent in the integrator and the steps done in it.
    """

    path: Path
    segment: int = -1
    finished: bool = False
    error: str | None = None
    loop_seconds: float = 0.0
    loop_steps: int = 0
    _offset: int = 0

    def poll(self) -> list[ThermoRow]:
        """Read what was added since the last call; a half-written line waits for its end."""
        lines, self._offset = added_lines(self.path, self._offset)
        return [row for line in lines if (row := self._line(line)) is not None]

    def _line(self, line: str) -> ThermoRow | None:
        if match := _ROW.match(line):
            return _thermo_row(self.segment, match[1])
        if line.startswith(MARKER):
            self.segment = int(line.removeprefix(MARKER))
        elif match := _LOOP.match(line):
            self.loop_seconds += float(match[1])
            self.loop_steps += int(match[2])
        elif (match := _ERROR.match(line)) and self.error is None:
            self.error = match[1].strip()
        elif line.startswith(FINISHED):
            self.finished = True
        return None


def _thermo_row(segment: int, text: str) -> ThermoRow:
    step, *values = (part for part in text.replace(" ", "").split(",") if part)
    return ThermoRow(segment, int(step), *map(float, values))


def read_error(path: Path) -> str | None:
    """Return the first error message in what LAMMPS printed on the screen, or None."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return next((match[1].strip() for line in file if (match := _ERROR.match(line))), None)
    except FileNotFoundError:
        return None


def _limits(attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, tuple[float, float]]]:
    """Pair each attempt with the last (segment, step) that counts: where the next one took over."""
    for attempt, following in zip(attempts, [*attempts[1:], None], strict=False):
        yield attempt, (math.inf, math.inf) if following is None else (following.segment, following.step)


def merged_thermo(work: Path, attempts: Sequence[Attempt], layout: Sequence[Span]) -> list[ThermoRow]:
    """Join the thermo lines of all attempts: each (segment, step) once, none missing.

    LAMMPS also prints a line wherever a chunk begins; those that the segment did not ask for are left out, so the
    result does not depend on where checkpoints lay.
    """
    rows: dict[tuple[int, int], ThermoRow] = {}
    for attempt, limit in _limits(attempts):
        for row in LogFollower(work / log_name(attempt.number)).poll():
            if (row.segment, row.step) <= limit and _wanted(row, layout[row.segment]):
                rows.setdefault((row.segment, row.step), row)
    return [rows[key] for key in sorted(rows)]


def _wanted(row: ThermoRow, span: Span) -> bool:
    if isinstance(span.segment, MinimizeSegment):
        return True
    every = interval_steps(span.segment.thermo.every, span.segment.step_length)
    return row.step % every == 0 or row.step in (span.begin, span.end)


class MDFrame(NamedTuple):
    """One frame of a run with its place in it."""

    segment: int
    step: int
    time: float
    atoms: Atoms


@dataclass(frozen=True)
class Trajectory:
    """The frames that the attempts of a run dumped, read again at each iteration.

    Attributes
    ----------
    start
        Structure the run began with: elements, masses, periodicity.
    """

    work: Path
    attempts: tuple[Attempt, ...]
    layout: tuple[Span, ...]
    start: Atoms
    box: LammpsBox

    def frames(self, segments: Sequence[int] | None = None) -> Iterator[MDFrame]:
        """Frames in order, each step once; `segments` chooses some of them."""
        last = -1
        for span in self.layout:
            if isinstance(span.segment, MinimizeSegment):
                continue
            for attempt, limit in _limits(self.attempts):
                path = self.work / dump_name(span.index, attempt.number)
                if not path.exists() or attempt.segment > span.index:
                    continue
                for dump in read_dump(path):
                    if not last < dump.step or (span.index, dump.step) > limit:
                        continue
                    last = dump.step
                    if segments is None or span.index in segments:
                        time = span.time + (dump.step - span.begin) * span.segment.step_length
                        yield MDFrame(span.index, dump.step, time, self._atoms(dump))

    def _atoms(self, dump: DumpFrame) -> Atoms:
        atoms: Atoms = self.start.copy()
        atoms.calc = None
        atoms.set_cell(self.box.cell_back(dump.vectors))
        atoms.positions = self.box.positions_back(dump.positions, dump.origin)
        atoms.arrays.pop("momenta", None)
        atoms.info = {}
        if dump.velocities is not None:
            atoms.set_velocities(self.box.from_lammps(dump.velocities) / ASE_TIME_PER_PS)
        if dump.forces is not None:
            atoms.set_array(FORCES, self.box.from_lammps(dump.forces))
        return atoms

    def final(self, path: Path) -> Atoms:
        """Read a state with its velocities."""
        dump = next(read_dump(path), None)
        if dump is None or dump.velocities is None:
            raise DataError(f"{path} does not hold the last frame of the run: run it again")
        return self._atoms(dump)

    def last(self) -> Atoms:
        """See `Record.last`."""
        return self.final(self.work / FINAL_DUMP)

    def write_final_data(self, path: Path) -> None:
        """See `Record.write_final_data`."""
        shutil.copyfile(self.work / FINAL_DATA, path)

    @property
    def starts(self) -> int:
        """See `Record.starts`."""
        return len(self.attempts)

    def rows(self) -> list[ThermoRow]:
        """See `Record.rows`."""
        return merged_thermo(self.work, self.attempts, self.layout)

    def deviations(self) -> list[str]:
        """See `Record.deviations`."""
        return merged_deviation(self.work, self.attempts)

    def speed(self) -> tuple[float, int]:
        """See `Record.speed`."""
        seconds, steps = 0.0, 0
        for attempt in self.attempts:
            log = LogFollower(self.work / log_name(attempt.number))
            log.poll()
            seconds, steps = seconds + log.loop_seconds, steps + log.loop_steps
        return seconds, steps


class DumpFrame(NamedTuple):
    """One snapshot in LAMMPS's frame: unwrapped positions in Å, velocities in Å/ps, forces in eV/Å, box in Å."""

    step: int
    positions: Array
    velocities: Array | None
    forces: Array | None
    vectors: Array
    origin: Array


def read_dump(path: Path) -> Iterator[DumpFrame]:
    """Read a dump written by the deck, snapshot by snapshot; one cut short by a kill ends the file."""
    with path.open(encoding="ascii") as file:
        while (frame := _read_snapshot(file)) is not None:
            yield frame


@dataclass
class DumpFollower:
    """Reads the dumps of one attempt while they are being written.

    Attributes
    ----------
    paths
        One for each segment, in order; they may not exist yet.
    """

    paths: Sequence[Path]
    _offsets: dict[Path, int] = field(default_factory=dict)

    def poll(self) -> Iterator[DumpFrame]:
        """Snapshots that were added since the last call; one that is being written waits for its end."""
        for path in self.paths:
            if not path.exists():
                continue
            with path.open(encoding="ascii") as file:
                file.seek(self._offsets.get(path, 0))
                while (frame := _read_snapshot(file)) is not None:
                    self._offsets[path] = file.tell()
                    yield frame


def _read_snapshot(file: TextIO) -> DumpFrame | None:
    head = [file.readline() for _ in range(9)]
    if not head[8].endswith("\n"):
        return None
    n_atoms, columns = int(head[3]), head[8].split()[2:]
    lines = [file.readline() for _ in range(n_atoms)]
    if lines and not lines[-1].endswith("\n"):
        return None
    table = np.array([line.split() for line in lines])
    vectors, origin = _box([[float(value) for value in line.split()] for line in head[5:8]])

    def three(name: str) -> Array | None:
        first = columns.index(name) if name in columns else None
        return None if first is None else table[:, first : first + 3].astype(float)

    positions = three("xu")
    assert positions is not None
    return DumpFrame(int(head[1]), positions, three("vx"), three("fx"), vectors, origin)


def _box(bounds: list[list[float]]) -> tuple[Array, Array]:
    """Undo LAMMPS's bounding box of a triclinic cell (manual, "Howto triclinic")."""
    xy, xz, yz = (row[2] if len(row) > 2 else 0.0 for row in bounds)
    low = np.array([bounds[0][0] - min(0.0, xy, xz, xy + xz), bounds[1][0] - min(0.0, yz), bounds[2][0]])
    high = np.array([bounds[0][1] - max(0.0, xy, xz, xy + xz), bounds[1][1] - max(0.0, yz), bounds[2][1]])
    vectors = np.diag(high - low)
    vectors[1, 0], vectors[2, 0], vectors[2, 1] = xy, xz, yz
    return vectors, low
