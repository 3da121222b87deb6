"""Files of a run with ASE: frames and thermodynamic lines in binary, appended, and cut back where a run goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.lammps_data import elements_of, lammps_box, write_data
from dpsim.calculators.md.deck import Span
from dpsim.calculators.md.output import FORCES, MDFrame, ThermoRow
from dpsim.calculators.md.segments import MinimizeSegment
from dpsim.data.files import new_file
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
FRAMES, ROWS, DEVIATIONS, STATE = "frames.bin", "thermo.bin", "deviation.out", "state.npz"
_LOGS = (FRAMES, ROWS, DEVIATIONS)


class Writer:
    """Appends to the files of a run.

    Parameters
    ----------
    work
        Their folder.
    lengths
        Bytes of each that count; what lies beyond was written after the state from which the run goes on.
    """

    def __init__(self, work: Path, lengths: Sequence[int] = (0, 0, 0)) -> None:
        self.work = work
        self._files: list[BinaryIO] = []
        for name, length in zip(_LOGS, lengths, strict=True):
            file = (work / name).open("ab")
            file.truncate(length)
            self._files.append(file)

    def frame(self, segment: int, step: int, *arrays: Array) -> None:
        """Append a frame: cell, positions, velocities, forces."""
        self._files[0].write(np.concatenate([[segment, step], *(a.ravel() for a in arrays)]).tobytes())

    def row(self, row: ThermoRow) -> None:
        """Append a thermodynamic line."""
        self._files[1].write(np.array(row, dtype=np.float64).tobytes())

    def deviation(self, line: str) -> None:
        """Append a line about the deviation of several models."""
        self._files[2].write(line.encode())

    def lengths(self) -> list[int]:
        """Bytes of each file, which are on the disk when this returns."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        return [file.tell() for file in self._files]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def write_state(path: Path, arrays: dict[str, Array]) -> None:
    """Write a state under a temporary name, then rename."""
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # names are arrays, none is allow_pickle


def read_state(path: Path) -> dict[str, Array] | None:
    """Read a state; None if there is none."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@dataclass(frozen=True)
class AseRecord:
    """What a run with ASE left in its work folder; see `record.Record`."""

    work: Path
    start: Atoms
    layout: tuple[Span, ...]
    starts: int = 1

    def _table(self, name: str, width: int) -> Array:
        path = self.work / name
        if not path.exists():
            return np.zeros((0, width))
        found = np.fromfile(path)
        return found[: len(found) // width * width].reshape(-1, width)

    def frames(self, segments: Sequence[int] | None = None) -> Iterator[MDFrame]:
        """See `Record.frames`."""
        n = len(self.start)
        width = 11 + 9 * n
        path = self.work / FRAMES
        count = path.stat().st_size // (8 * width) if path.exists() else 0
        if not count:
            return
        table = np.memmap(path, np.float64, "r", shape=(count, width))
        for row in table:
            segment, step = int(row[0]), int(row[1])
            if segments is not None and segment not in segments:
                continue
            span = self.layout[segment]
            assert not isinstance(span.segment, MinimizeSegment)
            positions, velocities, forces = np.array(row[11:]).reshape(3, n, 3)
            atoms = self._atoms(np.array(row[2:11]).reshape(3, 3), positions, velocities)
            atoms.set_array(FORCES, forces)
            yield MDFrame(segment, step, span.time + (step - span.begin) * span.segment.step_length, atoms)

    def _atoms(self, cell: Array, positions: Array, velocities: Array) -> Atoms:
        atoms: Atoms = self.start.copy()
        atoms.calc, atoms.info = None, {}
        atoms.set_cell(cell)
        atoms.positions = positions
        atoms.set_velocities(velocities)
        return atoms

    def rows(self) -> list[ThermoRow]:
        """See `Record.rows`."""
        table = self._table(ROWS, len(ThermoRow._fields))
        return [ThermoRow(int(row[0]), int(row[1]), *(float(value) for value in row[2:])) for row in table]

    def deviations(self) -> list[str]:
        """See `Record.deviations`."""
        path = self.work / DEVIATIONS
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith("\n")]

    def speed(self) -> tuple[float, int]:
        """See `Record.speed`."""
        state = read_state(self.work / STATE)
        return (0.0, 0) if state is None else (float(state["seconds"]), int(state["step"]))

    def last(self) -> Atoms:
        """See `Record.last`."""
        state = read_state(self.work / STATE)
        if state is None:
            raise DataError(f"{self.work} does not hold the last state of the run: run it again")
        return self._atoms(state["cell"], state["positions"], state["velocities"])

    def write_final_data(self, path: Path) -> None:
        """See `Record.write_final_data`."""
        atoms = self.last()
        elements = elements_of(atoms, tuple(dict.fromkeys(atoms.get_chemical_symbols())))
        write_data(path, atoms, elements, lammps_box(atoms), tilt=False, velocities=True)
