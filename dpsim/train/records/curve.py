"""The learning curve: ``lcurve.csv``, one row for each logged step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dpsim.data.files import write_text


def columns(quantities: Sequence[str]) -> tuple[str, ...]:
    """Columns of a curve that shows the errors of these quantities.

    Energies and other values of structures are per atom (unless they are intensive), virials in eV an atom, forces in
    eV/Å; a field is empty where there is no such number.
    """
    errors = (f"rmse_{name}_{part}" for part in ("train", "valid") for name in quantities)
    return ("step", "learning_rate", "loss", *errors)


class Curve:
    """Appends rows to a file whose rows always belong to the past of the training.

    Parameters
    ----------
    quantities
        What errors are shown of.
    step
        Step at which training begins: rows after it, which an earlier process wrote and lost, are taken out.
    """

    def __init__(self, path: Path, quantities: Sequence[str], step: int) -> None:
        self.path, self.columns = path, columns(quantities)
        self._begin(step)
        self._file = path.open("a", encoding="utf-8")

    def _begin(self, step: int) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        header = ",".join(self.columns) + "\n"
        rows = (
            [line for line in lines[1:] if line.endswith("\n") and _step(line) <= step] if lines[:1] == [header] else []
        )
        write_text(self.path, header + "".join(rows))

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Write one row; keys are the columns."""
        self._file.write(",".join(_text(row.get(name)) for name in self.columns) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make sure that the rows are on disk, as a checkpoint that follows them relies on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step(line: str) -> float:
    word = line.partition(",")[0]
    return int(word) if word.isdecimal() else float("inf")


def _text(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.8g}"
