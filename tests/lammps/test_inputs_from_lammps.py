"""Frame and atomic parameters of a model: given, or computed by LAMMPS anew at every step."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deck_table import Done, liquid, predict, run_decks
from families import build, freeze
from lammps_runs import head

pytestmark = pytest.mark.lammps

FAMILY = "dpa3-ener-inputs"
"""Takes two frame parameters with a default, one atomic parameter, charge and spin."""
SYSTEM = liquid()
MASSES = np.array([{"O": 15.999, "H": 1.008}[s] for s in SYSTEM.symbols])
STEPS = 6


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, plugin: Path) -> Path:
    """The tiny model with inputs, frozen in float64."""
    return freeze([FAMILY], request.config.cache.mkdir("dpsim-models"))[FAMILY]


@pytest.fixture(scope="module")
def potential():
    """The same as PyTorch modules."""
    from dpsim.calculators.engines import ModuleEngine
    from dpsim.calculators.evaluate import Potential

    return Potential(ModuleEngine(build(FAMILY), "cpu"), FAMILY)


@dataclass(frozen=True)
class Frame:
    """What was there when the forces of a step were computed."""

    step: int
    x: np.ndarray
    """Unwrapped."""


@dataclass(frozen=True)
class Case:
    """Words of the input, and what Python is to be given at a step."""

    words: str
    inputs: Callable[[Frame], dict[str, Any]]
    before: str = ""
    first: int = 0
    """First step that is compared: a fix knows nothing before."""


def _center(frame: Frame) -> np.ndarray:
    return (MASSES[:, None] * frame.x).sum(0) / MASSES.sum()


CASES = {
    "given": Case("fparam 0.8 -0.5 aparam 0.7", lambda f: {"fparam": [0.8, -0.5], "aparam": [0.7]}),
    "default": Case("aparam 0.7", lambda f: {"aparam": [0.7]}),
    "vector of a compute": Case(
        "fparam_from_compute c aparam 0.7", lambda f: {"fparam": _center(f)[:2], "aparam": [0.7]}, "compute c all com"
    ),
    "vector of a fix": Case(
        "aparam 0.7 fparam_from_fix a", lambda f: {"fparam": [f.step - 1, 0.25], "aparam": [0.7]},
        "variable s equal step\nvariable q equal 0.25\nfix a all ave/time 1 1 1 v_s v_q", first=1,
    ),
    "part of the vector of a fix": Case(
        "fparam_from_fix a 2 aparam 0.7", lambda f: {"fparam": [0.25, f.step - 1], "aparam": [0.7]},
        "variable s equal step\nvariable q equal 0.25\nfix a all ave/time 1 1 1 v_s v_q v_s", first=1,
    ),
    "atoms of a compute": Case(
        "aparam_from_compute p", lambda f: {"aparam": f.x[:, :1]}, "compute p all property/atom xu"
    ),
    "column of a compute": Case(
        "aparam_from_compute p fparam_from_compute c", lambda f: {"aparam": f.x[:, :1], "fparam": _center(f)[:2]},
        "compute p all property/atom xu yu\ncompute c all com",
    ),
}  # fmt: skip


def _deck(folder: Path, model: Path, words: str, before: str, run: str = "") -> str:
    deck = head(SYSTEM, SYSTEM.write(folder / "s.data", ("O", "H")), before="atom_modify map array")
    deck += f"{before}\npair_style dpsim {model} charge_spin -1 2 {words}\npair_coeff * * O H\n"
    return deck + (
        "neighbor 0.2 bin\nneigh_modify every 1 delay 0 check yes\nvelocity all create 3000 4928 loop all\n"
        "fix n all nve\ntimestep 0.0008\ndump d all custom 1 x.dump id xu yu zu fx fy fz\n"
        "dump_modify d sort id format float %.17g\nthermo_style custom step pe\nthermo_modify format float %.15g\n"
        f"thermo 1\n{run or f'run {STEPS}'}\n"
    )


@pytest.fixture(scope="module")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Done]]:
    """All cases on a number of ranks, run when they are first asked for."""
    kept: dict[int, dict[str, Done]] = {}

    def on(ranks: int) -> dict[str, Done]:
        if ranks not in kept:
            decks = {
                name: lambda folder, case=case: _deck(folder, model, case.words, case.before)
                for name, case in CASES.items()
            }
            kept[ranks] = run_decks(decks, ranks, tmp_path_factory.mktemp("inputs"))
        return kept[ranks]

    return on


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_inputs(name: str, ranks: int, runs, potential) -> None:
    """Energies and forces along a run, where values change from step to step."""
    case, done = CASES[name], runs(ranks)[name]
    energies, frames = dict(done.thermo()), done.frames()
    assert len(frames) == STEPS + 1
    for step in range(case.first, STEPS + 1):
        x = frames[step][:, 1:4]
        expected = predict(potential, SYSTEM, x, charge_spin=[-1, 2], **case.inputs(Frame(step, x)))
        np.testing.assert_allclose(energies[step], expected.energy, rtol=1e-10)
        scale = np.abs(expected.forces).max()
        np.testing.assert_allclose(frames[step][:, 4:7], expected.forces, rtol=0, atol=1e-10 * scale)


def test_parameters_matter(potential) -> None:
    """What the cases above give makes a difference."""
    plain = predict(potential, SYSTEM, charge_spin=[-1, 2], aparam=[0.7]).energy
    assert abs(predict(potential, SYSTEM, charge_spin=[-1, 2], aparam=[0.8]).energy - plain) > 1e-4
    assert abs(predict(potential, SYSTEM, charge_spin=[-1, 2], aparam=[0.7], fparam=[0.9, 1]).energy - plain) > 1e-4


def test_minimization(model: Path, potential, tmp_path: Path) -> None:
    """Positions change within a step, and values with them: the last energy is that of the last positions."""
    words = "aparam_from_compute p fparam_from_compute c"
    before = "compute p all property/atom xu\ncompute c all com"
    run = "unfix n\nminimize 0 0 4 20\nwrite_dump all custom last.dump id xu yu zu modify sort id format float %.17g"
    done = run_decks({"min": lambda f: _deck(f, model, words, before, run)}, 1, tmp_path)["min"]
    step, energy = done.thermo()[-1]
    x = done.frames("last.dump")[0][:, 1:4]
    center = (MASSES[:, None] * x).sum(0) / MASSES.sum()
    expected = predict(potential, SYSTEM, x, charge_spin=[-1, 2], aparam=x[:, :1], fparam=center[:2])
    assert step >= 1
    np.testing.assert_allclose(energy, expected.energy, rtol=1e-10)


INPUTS = {
    "no compute": ("fparam_from_compute x aparam 1", "", r"there is no compute x for fparam_from_compute; define it"),
    "no fix": ("fparam_from_fix x aparam 1", "", r"there is no fix x for fparam_from_fix; define it"),
    "energy": ("aparam_from_compute p", "compute p all pe/atom", r"compute p for aparam_from_compute needs the forces"),
    "scalar": ("fparam_from_compute t aparam 1", "compute t all ke", r"compute t .* gives no global vector of 2 num"),
    "short": ("fparam_from_fix a 2 aparam 1", "variable q equal 1\nfix a all ave/time 1 1 1 v_q v_q",
              r"fix a for fparam_from_fix gives no numbers 2 to 3 of a global vector; the model takes 2"),
    "no atoms": ("aparam_from_compute t", "compute t all temp", r"gives no 1 numbers for each atom"),
    "both": ("fparam 1 2 fparam_from_compute c aparam 1", "", r"fparam and fparam_from_compute are both given"),
    "both sources": ("fparam_from_fix f fparam_from_compute c aparam 1", "", r"_from_compute and fparam_from_fix"),
    "both atomic": ("aparam 1 aparam_from_compute c", "", r"aparam and aparam_from_compute are both given"),
    "index": ("fparam_from_fix f 0 aparam 1", "", r'"0" behind fparam_from_fix is not a whole number of 1 or more'),
    "ttm": ("ttm f", "", r'keyword ttm is not available, .* write "aparam_from_compute ID"'),
    "no value": ("aparam_from_compute", "", r"keyword aparam_from_compute has no value"),
}  # fmt: skip


def test_wrong_input(model: Path, model64: Path, tmp_path: Path) -> None:
    cases: Mapping[str, tuple[Path, str, str, str]] = {
        **{name: (model, *case) for name, case in INPUTS.items()},
        "none taken": (
            model64,
            "fparam_from_compute c",
            "",
            r"takes no frame parameters; leave out .*_compute",
        ),
    }
    decks = {
        name: lambda folder, m=m, words=words, before=before: _deck(folder, m, words, before, "run 0").replace(
            "charge_spin -1 2" if m == model64 else "\0", ""
        )
        for name, (m, words, before, _) in cases.items()
    }
    done = run_decks(decks, 1, tmp_path)
    wrong = {name: done[name].error for name, (*_, text) in cases.items() if not re.search(text, done[name].error)}
    assert wrong == {}
