"""One run for each of several start structures, and their outputs as those of one."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsim.calculators.md.results import DEVIATION, MDResult, write_frames
from dpsim.data.files import write_json, write_text

if TYPE_CHECKING:
    from ase import Atoms

    from dpsim.calculators.md.lammps import Progress

STARTS = "starts"
RunOne = Callable[[int, "Atoms", Path, Path, "Progress | None"], MDResult]
"""Runs from a structure of this number in a work folder into an output folder."""


def run_many(
    run: RunOne, starts: Sequence[Atoms], work: Path, out: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Run from each structure in turn; those that are done are only analysed again.

    Parameters
    ----------
    run
        One run.
    starts
        The structures.
    work, out
        Folders; each run has ``starts/00``, ``starts/01``, … in both. In `out`, frames and last states follow each
        other (``info["start"]`` is the number of the structure), and tables have a column ``start``.
    progress
        Gets steps of all runs together.

    Returns
    -------
    dict
        What ``analysis.json`` holds: the summary of each run, and sums.
    """
    summaries = []
    for number, atoms in enumerate(starts):
        name = f"{STARTS}/{number:02d}"
        (out / name).mkdir(parents=True, exist_ok=True)
        result = run(number, atoms, work / name, out / name, _part(progress, number, len(starts)))
        summaries.append(result.summary)
    folders = [out / STARTS / f"{number:02d}" for number in range(len(starts))]
    for name in ("trajectory.extxyz", "final.extxyz"):
        write_frames(out / name, _frames([folder / name for folder in folders]))
    _join_csv(out / "thermo.csv", [folder / "thermo.csv" for folder in folders])
    shutil.copyfile(folders[-1] / "final.data", out / "final.data")
    if (folders[0] / DEVIATION).exists():
        _join_deviations(out / DEVIATION, [folder / DEVIATION for folder in folders])
    stopped = [number for number, summary in enumerate(summaries) if "stopped" in summary]
    joined = {"starts": summaries, "stopped_starts": stopped, "frames": sum(s["frames"] for s in summaries)}
    joined |= {name: summaries[0][name] for name in ("engine", "ranks")}
    write_json(out / "analysis.json", joined)
    return joined


def _part(progress: Progress | None, number: int, count: int) -> Progress | None:
    if progress is None:
        return None

    def report(done: float, total: float, message: str = "", **values: Any) -> None:
        progress(number * total + done, count * total, f"start {number + 1} of {count}: {message}", **values)

    return report


def _frames(paths: Sequence[Path]) -> Iterator[Atoms]:
    from ase.io import iread

    for number, path in enumerate(paths):
        for atoms in iread(path, index=":"):
            atoms.info["start"] = number
            yield atoms


def _join_csv(path: Path, parts: Sequence[Path]) -> None:
    lines: list[str] = []
    for number, part in enumerate(parts):
        with part.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        if not lines:
            lines.append(",".join(["start", *header]))
        lines += [",".join([str(number), *row]) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def _join_deviations(path: Path, parts: Sequence[Path]) -> None:
    """One header, then the lines of all runs; steps begin again with each."""
    tables = [part.read_text(encoding="utf-8").splitlines(keepends=True) for part in parts]
    header = next((table[0] for table in tables if table), "")
    write_text(path, header + "".join(line for table in tables for line in table[1:]))
