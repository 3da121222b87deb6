"""Many decks run one after the other by one program, so that a table of cases costs little more than one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from families import run_all
from lammps_runs import System, grid, symbols

Deck = Callable[[Path], str]
"""Writes what it needs into its folder and returns the deck."""


@dataclass(frozen=True)
class Done:
    """What a deck left behind."""

    folder: Path
    error: str
    """Message that ended it, or nothing."""

    @property
    def log(self) -> str:
        """All that LAMMPS said."""
        return (self.folder / "log.lammps").read_text()

    def thermo(self) -> np.ndarray:
        """Rows of numbers of all tables."""
        assert self.error == ""
        return thermo(self.log)

    def frames(self, name: str = "x.dump") -> list[np.ndarray]:
        """Frames of a dump, rows by atom."""
        assert self.error == ""
        frames = (self.folder / name).read_text().split("ITEM: TIMESTEP")[1:]
        return [np.array([[float(v) for v in line.split()] for line in f.splitlines()[9:]]) for f in frames]


def run_decks(decks: Mapping[str, Deck], ranks: int, scratch: Path) -> dict[str, Done]:
    """Run each deck in a folder of its own by one program of `ranks` ranks.

    Errors must be those that all ranks see alike (with one rank, all).
    """
    folders = {name: scratch / f"{ranks}" / re.sub(r"\W+", "-", name) for name in decks}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "in.lammps").write_text(decks[name](folder))
    messages = run_all(list(folders.values()), ranks, scratch / f"{ranks}")
    return {name: Done(folder, " ".join(messages[folder].split())) for name, folder in folders.items()}


def thermo(text: str) -> np.ndarray:
    """Rows of numbers of all thermo tables."""
    rows, inside = [], False
    for line in text.splitlines():
        if line.split()[:1] == ["Step"]:
            inside = True
        elif line.startswith("Loop time"):
            inside = False
        elif inside and re.match(r"^\s+\d+\s", line):
            rows.append([float(v) for v in line.split()])
    return np.array(rows)


def liquid(n: int = 40, side: float = 8.2, seed: int = 21) -> System:
    """A cube of O and H."""
    return System(grid(n, (side,) * 3, seed), symbols(n, seed), np.eye(3) * side)


def predict(potential, system: System, positions: np.ndarray | None = None, **inputs):
    """Python's answer; open directions see no images."""
    x = system.positions if positions is None else positions
    return potential.evaluate(x, system.symbols, system.cell, periodic=system.periodic, **inputs)
