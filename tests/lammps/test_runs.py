"""Kinds of runs that a production input has: each step's energy is that of its positions, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from deck_table import Done, liquid, run_decks
from ensembles import swapped
from lammps_runs import System, head, run_program

pytestmark = pytest.mark.lammps

ELEMENTS = ("O", "H")
SYSTEM = liquid(36, 8.0)
THERMO = "thermo_style custom step atoms pe lx ly lz xy xz yz\nthermo_modify format float %.15g lost ignore\n"
DUMP = (
    "dump d all custom {every} x.dump id type xu yu zu\ndump_modify d sort id format float %.17g\n"
    f"{THERMO}thermo {{every}}\n"
)


@dataclass(frozen=True)
class Case:
    """Lines of a deck behind ``pair_coeff``; a frame and a line of thermo every `every` steps."""

    lines: str
    every: int = 5
    least: int = 3
    """Frames that are compared at least."""
    before: str = ""
    """Lines of the deck in front of the dump."""
    changes: bool = False
    """Whether the number of atoms changes."""


CASES = {
    "nvt": Case("fix n all nvt temp 900 600 0.05\nrun 15\n"),
    "nph, triclinic": Case("fix n all nph tri 0 5000 0.1\nrun 15\n", before="change_box all triclinic\n"),
    "langevin": Case("fix n all nve\nfix l all langevin 500 500 0.1 4 zero yes\nrun 15\n"),
    "minimize": Case("min_style fire\nminimize 0 0 10 30\n", 2),
    "box relaxed": Case("fix r all box/relax aniso 100.0 vmax 0.002\nminimize 0 0 8 20\n", 1),
    "run 0 twice": Case("run 0\nrun 0\nfix n all nve\nrun 3\nrun 0\nrun 2 pre no\n", 1),
    "inner time steps": Case("fix n all nve\nrun_style respa 2 2 pair 1\nrun 10\n"),
    "deposited": Case(
        "fix n all nve\nregion u block 1 7 1 7 1 7\n"
        "fix p all deposit 3 2 2 777 region u near 1.0 attempt 200\nrun 15\n", 1, changes=True,
    ),
    "evaporated": Case(
        "fix n all nve\nregion u block INF INF INF INF 4 INF\nfix p all evaporate 3 3 u 4928\nrun 15\n", 1,
        changes=True,
    ),
    "exchanged with a reservoir": Case(
        "fix n all nve\nfix g all gcmc 2 4 0 1 29494 500 -0.2 0.5\nrun 10\n", 1, changes=True
    ),
    "types swapped": Case("fix n all nve\nfix s all atom/swap 3 2 29494 5000 ke no types 1 2\nrun 15\n", 1),
    "emptied and filled": Case(
        "fix n all nve\nrun 2\ndelete_atoms group all\nrun 2\nread_data s.data add append\nrun 2\n", 1, 2,
        changes=True,
    ),
    "grown from nothing": Case(
        "delete_atoms group all\nfix n all nve\nregion u block 1 7 1 7 1 7\n"
        "fix p all deposit 6 2 1 777 region u near 1.2 attempt 200\nrun 8\n", 1, changes=True,
    ),
    "replicated": Case("replicate 2 1 1\nfix n all nve\nrun 4\n", 2),
    "another model": Case("fix n all nve\nrun 2\npair_style dpsim OTHER\npair_coeff * * H O\nrun 4\n", 2),
}  # fmt: skip


def _start(folder: Path, system: System = SYSTEM, before: str = "atom_modify map array") -> str:
    return head(system, system.write(folder / "s.data", ELEMENTS), before=before)


def _pair(model: Path | str) -> str:
    return f"pair_style dpsim {model}\npair_coeff * * O H\nneighbor 0.3 bin\nneigh_modify every 1 delay 0 check yes\n"


def _deck(folder: Path, case: Case, model: Path) -> str:
    deck = _start(folder) + _pair(model) + "timestep 0.0005\nvelocity all create 900 4928 loop all\n"
    deck += case.before + DUMP.format(every=case.every) + case.lines
    if "OTHER" in deck:
        deck = deck.replace("OTHER", str(swapped(model, folder / "swapped.pt2")))
    return deck


@pytest.fixture(scope="module")
def runs(model64: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Done]]:
    """All cases on a number of ranks, run when they are first asked for."""
    kept: dict[int, dict[str, Done]] = {}

    def on(ranks: int) -> dict[str, Done]:
        if ranks not in kept:
            decks = {name: lambda folder, case=case: _deck(folder, case, model64) for name, case in CASES.items()}
            kept[ranks] = run_decks(decks, ranks, tmp_path_factory.mktemp("runs"))
        return kept[ranks]

    return on


def _frames(done: Done) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Step, types and positions of each frame."""
    found = []
    for text in (done.folder / "x.dump").read_text().split("ITEM: TIMESTEP\n")[1:]:
        lines = text.splitlines()
        rows = np.array([[float(v) for v in line.split()] for line in lines[8:]]).reshape(-1, 5)
        found.append((int(lines[0]), rows[:, 1].astype(int), rows[:, 2:]))
    return found


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_run(name: str, ranks: int, runs, eager) -> None:
    """Each frame has a line of thermo with its energy; where a run begins, a step may have two lines."""
    case, done = CASES[name], runs(ranks)[name]
    rows, compared = done.thermo(), 0
    for step, types, x in _frames(done):
        lines = rows[(rows[:, 0] == step) & (rows[:, 1] == len(x))]
        if not len(x):
            assert (lines[:, 2] == 0).all()
            continue
        xy, xz, yz = lines[0, 6:]
        cell = np.diag(lines[0, 3:6]) + np.array([[0, 0, 0], [xy, 0, 0], [xz, yz, 0]])
        expected = eager.evaluate(x, types - 1, cell).energy
        assert np.abs(lines[:, 2] - expected).min() <= 1e-10 * abs(expected), f"step {step} with {len(x)} atoms"
        compared += 1
    assert compared >= case.least
    assert case.changes == (len(set(rows[:, 1])) > 1), f"numbers of atoms: {sorted(set(rows[:, 1]))}"


def test_runs_that_change_types_do_so(runs) -> None:
    counts = {int((types == 1).sum()) for _, types, _ in _frames(runs(1)["exchanged with a reservoir"])}
    assert len(counts) > 1
    order = {tuple(types) for _, types, _ in _frames(runs(1)["types swapped"])}
    assert len(order) > 1


def test_rerun(model64: Path, eager, tmp_path: Path) -> None:
    """Forces of a trajectory, without the run."""

    def deck(folder: Path) -> str:
        first = _start(folder) + _pair(model64) + "velocity all create 900 4928 loop all\nfix n all nve\n" + THERMO
        first += "dump t all custom 4 t.dump id type x y z ix iy iz\ndump_modify t sort id format float %.17g\n"
        again = "clear\n" + _start(folder) + _pair(model64) + DUMP.format(every=1)
        return f"{first}run 12\n{again}rerun t.dump first 4 dump x y z ix iy iz\n"

    for ranks in (1, 2):
        done = run_decks({"rerun": deck}, ranks, tmp_path)["rerun"]
        rows = {int(row[0]): row[2] for row in done.thermo()[-3:]}
        frames = _frames(done)
        assert [step for step, *_ in frames] == [4, 8, 12]
        for step, types, x in frames:
            np.testing.assert_allclose(rows[step], eager.evaluate(x, types - 1, SYSTEM.cell).energy, rtol=1e-10)


# ---- replicas --------------------------------------------------------------------------------------

TEMPER = """
variable t world 500 700
fix n all nvt temp $t $t 0.02
temper 12 4 $t n 3847 58382
"""
NEB = """
variable r uloop 3
if "$r > 1" then "displace_atoms all random 0.02 0.02 0.02 1$r"
fix n all neb 1.0
min_style quickmin
timestep 0.002
neb 0.0 0.0 6 6 3 none
"""


@pytest.mark.parametrize(("kind", "worlds", "each"), [("temper", 2, 1), ("temper", 2, 2), ("neb", 3, 1)])
def test_replicas(kind: str, worlds: int, each: int, model64: Path, eager, tmp_path: Path) -> None:
    """Replicas talk to each other between steps; each ends with the energy of its own positions."""
    from dpsim.lammps.launcher import lammps_command

    deck = "variable p uloop 3\n" + _start(tmp_path) + _pair(model64) + "velocity all create 600 4$p loop all\n"
    deck += "variable d index d.$p\n" + (TEMPER if kind == "temper" else NEB)
    deck += 'run 0\nprint "$(pe:%.17g)" file e.$p.txt\n'
    deck += "write_dump all custom d.$p id type xu yu zu modify sort id format float %.17g\n"
    (tmp_path / "in.x").write_text(deck)
    argv, env = lammps_command(worlds * each, tmp_path / "in.x", plugin=True, extra=["-partition", f"{worlds}x{each}"])
    code, text = run_program(argv, env, tmp_path, 150)
    assert code == 0, text[-3000:]
    energies = []
    for p in range(1, worlds + 1):
        rows = np.loadtxt(tmp_path / f"d.{p}", skiprows=9)
        energies.append(float((tmp_path / f"e.{p}.txt").read_text()))
        expected = eager.evaluate(rows[:, 2:], rows[:, 1].astype(int) - 1, SYSTEM.cell).energy
        np.testing.assert_allclose(energies[-1], expected, rtol=1e-10)
    assert len(set(energies)) == worlds
