"""What LAMMPS wrote of the deviation of several models: read while it grows, and several attempts made one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpsim.calculators.md.deck import Attempt, deviation_name
from dpsim.data.files import added_lines

MAX_FORCE = 4
"""Column of the largest deviation of a force, behind step and virial."""


@dataclass
class DeviationFollower:
    """Reads a file of deviations while it is being written.

    Attributes
    ----------
    path
        The file; may not exist yet.
    """

    path: Path
    _offset: int = 0

    def poll(self) -> list[tuple[int, float]]:
        """Step and largest deviation of a force of each line that was added; a half-written line waits."""
        lines, self._offset = added_lines(self.path, self._offset)
        rows = [line.split() for line in lines if not line.startswith("#")]
        return [(int(row[0]), float(row[MAX_FORCE])) for row in rows]


def merged_deviation(work: Path, attempts: Sequence[Attempt]) -> list[str]:
    """Lines of all attempts with their header: each step once, none missing.

    A run that begins again at a checkpoint writes this step anew, and what its forerunner wrote beyond is left out.
    """
    lines: dict[int, str] = {}
    header = ""
    ends = [*(following.step for following in attempts[1:]), math.inf]
    for attempt, end in zip(attempts, ends, strict=False):
        for line in _whole_lines(work / deviation_name(attempt.number)):
            if line.startswith("#"):
                header = line
            elif (step := step_of(line)) <= end:
                lines.setdefault(step, line)
    return [header, *(lines[step] for step in sorted(lines))] if header else []


def step_of(line: str) -> int:
    """Step of a line that is no header."""
    return int(line.split(maxsplit=1)[0])


def _whole_lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from (line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n"))
