"""The table of single points: boxes, boundaries and the ways in which LAMMPS spreads a box over ranks.

A case is quick, and then runs by default, or belongs to the slow bulk that goes through every combination.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from lammps_runs import System, grid, head, symbols

RANKS = (1, 2, 4)


# ---- boxes ---------------------------------------------------------------------------------------


def box(n: int, sides: float | tuple[float, ...], seed: int, fill: tuple[float, ...] | None = None) -> System:
    """`n` atoms in an orthogonal box, or in the part `fill` of it at one corner."""
    sides = (sides,) * 3 if isinstance(sides, int | float) else sides
    return System(grid(n, sides, seed, fill=fill), symbols(n, seed), np.diag(sides).astype(float))


def tilted(n: int, cell: list[list[float]], seed: int) -> System:
    """`n` atoms in a box whose rows are given."""
    x = grid(n, (1, 1, 1), seed, jitter=0.0) + np.random.default_rng(seed).uniform(-0.02, 0.02, (n, 3))
    return System(x % 1.0 @ np.array(cell), symbols(n, seed), np.array(cell))


def _two_clumps() -> System:
    """Both ends of a long box, and nothing between."""
    left, right = grid(16, (40, 7, 7), 41, fill=(5.0, 7, 7)), grid(14, (40, 7, 7), 42, fill=(5.0, 7, 7))
    x = np.concatenate([left, right + np.array([34.0, 0, 0])])
    return System(x, symbols(30, 43), np.diag([40.0, 7.0, 7.0]))


BOXES: dict[str, Callable[[], System]] = {
    "cube": lambda: box(48, 8.6, 1),
    "long": lambda: box(44, (22.0, 7.0, 6.5), 2),
    "crowded": lambda: box(110, 7.9, 8),
    "smaller than the cutoff": lambda: box(4, 3.5, 7),
    "thin": lambda: box(12, (13.0, 3.2, 3.4), 9),
    "one atom, its own images": lambda: System(np.array([[1.0, 0.4, 2.9]]), ("O",), np.diag([3.1, 3.3, 3.0])),
    "one lonely atom": lambda: System(np.array([[1.0, 0.4, 2.9]]), ("H",), np.eye(3) * 30),
    "clump": lambda: box(30, (40.0, 9.0, 9.0), 6, fill=(8.0, 9.0, 9.0)),
    "two clumps": _two_clumps,
    "one element": lambda: System(grid(20, (7, 7, 7), 9), ("H",) * 20, np.eye(3) * 7),
    "small tilt": lambda: tilted(48, [[9.0, 0, 0], [0.4, 8.5, 0], [-0.3, 0.5, 8.8]], 3),
    "large tilt": lambda: tilted(48, [[8.5, 0, 0], [4.2, 8.0, 0], [-3.9, 3.9, 9.0]], 4),
    "tilt beyond one half": lambda: tilted(40, [[7.5, 0, 0], [6.8, 7.4, 0], [-5.9, 5.1, 7.8]], 5),
    "tilted, smaller than the cutoff": lambda: tilted(5, [[3.6, 0, 0], [1.7, 3.5, 0], [-1.1, 1.3, 3.8]], 10),
}
"""All periodic; `crowded` has more neighbours than the tiny models' `sel`."""

SKEW = {
    "xy": lambda: tilted(40, [[9.0, 0, 0], [3.1, 8.0, 0], [0, 0, 8.5]], 11),
    "xz": lambda: tilted(40, [[9.0, 0, 0], [0, 8.0, 0], [3.4, 0, 8.5]], 12),
    "yz": lambda: tilted(40, [[9.0, 0, 0], [0, 8.0, 0], [0, -3.2, 8.5]], 13),
    "all": lambda: tilted(40, [[9.0, 0, 0], [2.6, 8.0, 0], [-1.9, 3.1, 8.5]], 14),
}
"""Boxes tilted in one plane or in all, for the boundaries that LAMMPS allows with them."""

_SECOND = {"xy": "y", "xz": "z", "yz": "z"}  # LAMMPS wants the second axis of a tilt periodic
BOUNDARIES = tuple(" ".join(b) for b in product("pfsm", repeat=3))
TWO_FACED = ("fs fm sm", "p fs p", "ms p sf")


def tilted_boundaries(skew: str) -> tuple[str, ...]:
    """Boundaries of a tilted box that are not periodic all around, but where they must be."""
    planes = _SECOND if skew == "all" else {skew: _SECOND[skew]}
    must = {"xyz".index(axis) for axis in planes.values()}
    return tuple(b for b in BOUNDARIES if b != "p p p" and all(b.split()[axis] == "p" for axis in must))


# ---- layouts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Lines of input before the box and after the atoms."""

    before: str = ""
    after: str = ""


LAYOUTS = {
    "brick": Layout(),
    "slices in x": Layout("processors * 1 1"),
    "slices in y": Layout("processors 1 * 1"),
    "slices in z": Layout("processors 1 1 *"),
    "shifted": Layout(after="balance 1.0 shift xyz 20 1.01"),
    "fix balance shift": Layout(after="fix b all balance 0 1.0 shift xyz 20 1.01"),
    "tiled": Layout("comm_style tiled"),
    "tiled, rcb": Layout("comm_style tiled", "balance 1.0 rcb"),
    "tiled, fix balance rcb": Layout("comm_style tiled", "fix b all balance 0 1.0 rcb"),
    "wide halo": Layout(after="comm_modify cutoff 9.5"),
    "all pairs": Layout(after="neighbor 0.3 nsq"),
    "no skin": Layout(after="neighbor 0.0 bin"),
}
ONE_RANK = ("brick", "tiled", "wide halo", "no skin")
"""Layouts that differ from others on one rank, too."""


# ---- cases ---------------------------------------------------------------------------------------

MODELS = ("dpa3", "dpa2", "se_e2_a")
"""Of message passing the first two."""


@dataclass(frozen=True)
class Case:
    """One single point."""

    model: str
    box: str
    boundary: str
    layout: str
    ranks: int

    def __str__(self) -> str:
        return ", ".join((self.model, self.box, self.boundary, self.layout, str(self.ranks)))

    def system(self) -> System:
        """Its atoms."""
        made = (BOXES | SKEW)[self.box]()
        return System(made.positions, made.symbols, made.cell, self.boundary)

    def deck(self, folder: Path) -> str:
        """Its input up to the pair style; the atoms are written into the folder."""
        layout, system = LAYOUTS[self.layout], self.system()
        before = f"box tilt large\n{layout.before}"
        return head(system, system.write(folder / "s.data", ("O", "H")), before=before) + layout.after + "\n"


LISTED = 4.0 + 2.0
"""Å, cutoff of the tiny models and LAMMPS's skin."""


def is_possible(case: Case) -> bool:
    """LAMMPS's tiled communication reaches no farther than the next image."""
    heights = 1 / np.linalg.norm(np.linalg.inv(case.system().cell), axis=0)
    return not LAYOUTS[case.layout].before.startswith("comm_style tiled") or heights.min() > LISTED


P = "p p p"
QUICK = {
    "dpa3": (
        ("cube", P, "brick"), ("cube", "p p f", "tiled, rcb"), ("cube", "f f f", "brick"),
        ("cube", "s s m", "slices in x"), ("cube", "fs fm sm", "fix balance shift"), ("large tilt", P, "brick"),
        ("large tilt", P, "tiled, fix balance rcb"), ("all", "m p p", "brick"), ("crowded", P, "brick"),
        ("smaller than the cutoff", P, "brick"), ("tilted, smaller than the cutoff", P, "fix balance shift"),
        ("one atom, its own images", P, "brick"), ("one lonely atom", P, "brick"), ("one element", P, "brick"),
        ("clump", P, "slices in x"), ("clump", P, "fix balance shift"), ("two clumps", P, "tiled, rcb"),
    ),
    "dpa2": (
        ("cube", P, "brick"), ("large tilt", P, "tiled, rcb"), ("smaller than the cutoff", P, "brick"),
        ("two clumps", P, "slices in x"), ("cube", "f p s", "fix balance shift"), ("crowded", P, "brick"),
    ),
    "se_e2_a": (
        ("cube", P, "brick"), ("large tilt", P, "tiled, rcb"), ("smaller than the cutoff", P, "brick"),
        ("two clumps", P, "slices in x"), ("cube", "f p s", "fix balance shift"), ("crowded", P, "brick"),
    ),
}  # fmt: skip
"""What runs by default, on all numbers of ranks."""


def bulk() -> Iterator[Case]:
    """Every box in every layout with every model; every boundary; every boundary of every kind of tilt."""
    return filter(is_possible, _products())


def _products() -> Iterator[Case]:
    for model, name, layout, ranks in product(MODELS, BOXES, LAYOUTS, RANKS):
        if ranks > 1 or layout in ONE_RANK:
            yield Case(model, name, P, layout, ranks)
    for boundary, ranks in product((*BOUNDARIES, *TWO_FACED), RANKS):
        for model, layout in (("dpa3", "brick"), ("dpa2", "tiled, rcb"), ("se_e2_a", "shifted")):
            yield Case(model, "cube", boundary, layout, ranks)
    for skew in SKEW:
        for boundary, ranks, layout in product(tilted_boundaries(skew), RANKS, ("brick", "tiled, rcb", "shifted")):
            yield Case("dpa3", skew, boundary, layout, ranks)


def quick() -> Iterator[Case]:
    """The cases of the default run."""
    for model, lines in QUICK.items():
        for (name, boundary, layout), ranks in product(lines, RANKS):
            yield Case(model, name, boundary, layout, ranks)
