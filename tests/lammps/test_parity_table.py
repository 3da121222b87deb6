"""LAMMPS gives what Python gives: any model, box, boundary and layout, on any number of ranks; to 1e-10 in float64."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from families import build, freeze, run_all
from lammps_runs import MEASURE, compare, read_output
from parity_cases import BOXES, RANKS, Case, bulk, quick

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, Prediction

pytestmark = [pytest.mark.lammps, pytest.mark.timeout(3600)]

TOLERANCE = 1e-10  # of the largest value
_FAMILY = {"dpa2": "dpa2-ener", "se_e2_a": "se_e2_a-ener"}
_AT_ONCE = 30
"""Decks for one program of several ranks."""


class Runs:
    """All selected cases, run by few programs, and what Python says to them."""

    def __init__(self, cases: set[Case], models: dict[str, Path], tiny: Potential, scratch: Path) -> None:
        self.folders = {case: scratch / str(k) for k, case in enumerate(sorted(cases, key=str))}
        self.potentials = {"dpa3": tiny}
        self.predictions: dict[tuple[str, str, str], Prediction] = {}
        self.messages: dict[Path, str] = {}
        for case, folder in self.folders.items():
            folder.mkdir()
            deck = f"{case.deck(folder)}pair_style dpsim {models[case.model]} verbose yes\npair_coeff * * O H\n"
            (folder / "in.lammps").write_text(deck + MEASURE)
        for ranks in RANKS:
            folders = [folder for case, folder in self.folders.items() if case.ranks == ranks]
            for first in range(0, len(folders), _AT_ONCE):
                self.messages |= run_all(folders[first : first + _AT_ONCE], ranks, scratch)

    def folder(self, case: Case) -> Path:
        """Where a case was run, which must have gone well."""
        folder = self.folders[case]
        assert self.messages[folder] == ""
        return folder

    def prediction(self, case: Case) -> Prediction:
        """Python's answer; open directions see no images."""
        key = (case.model, case.box, case.boundary)
        if key not in self.predictions:
            if case.model not in self.potentials:
                self.potentials[case.model] = Potential(ModuleEngine(build(_FAMILY[case.model]), "cpu"), case.model)
            potential, system = self.potentials[case.model], case.system()
            found = potential.evaluate(system.positions, system.symbols, system.cell, periodic=system.periodic)
            self.predictions[key] = found
        return self.predictions[key]


def _case(item: pytest.Item) -> Case | None:
    found = (
        item.callspec.params.get("case") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    )
    return found if isinstance(found, Case) else None


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, model64: Path, eager, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Every selected case of this file."""
    cases = {case for item in request.session.items if item.path == request.path and (case := _case(item))}
    families = sorted({_FAMILY[case.model] for case in cases if case.model in _FAMILY})
    frozen = freeze(families, request.config.cache.mkdir("dpsim-models"))
    models = {"dpa3": model64, **{name: frozen[family] for name, family in _FAMILY.items() if family in frozen}}
    return Runs(cases, models, eager, tmp_path_factory.mktemp("parity"))


QUICK = tuple(quick())
SLOW = tuple(case for case in dict.fromkeys(bulk()) if case not in set(QUICK))


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=str(case)) for case in QUICK),
        *(pytest.param(case, id=str(case), marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_single_point(case: Case, runs: Runs) -> None:
    compare(read_output(runs.folder(case)), runs.prediction(case), TOLERANCE)


def _log(runs: Runs, case: Case) -> str:
    return (runs.folder(case) / "log.lammps").read_text()


def _sent(text: str) -> tuple[int, list[int]]:
    """Bytes of all exchanges of the step, and of each."""
    total, each = re.findall(r"sent by all ranks in a step: (\d+) in \d+ exchanges:?((?: \d+)*)$", text, re.MULTILINE)[
        -1
    ]
    return int(total), [int(word) for word in each.split()]


@pytest.mark.parametrize("case", [pytest.param(c, id=str(c)) for c in QUICK if c.box == "cube" and c.layout == "brick"])
def test_bytes_between_ranks(case: Case, runs: Runs) -> None:
    """Those of each layer of a model that passes messages, back and forth; of others none, and no exchange at all."""
    total, each = _sent(_log(runs, case))
    assert total == sum(each)
    layers = {"dpa3": 2, "dpa2": 3, "se_e2_a": 0}[case.model]
    if case.ranks == 1 or not layers:
        assert total == 0
    else:
        forth, back = each[:layers], each[layers:]
        assert min(forth) > 0
        assert sorted(back) == sorted(forth), "derivatives travel the same ways back"
    assert case.model != "se_e2_a" or each == []


@pytest.mark.parametrize("case", [Case("dpa3", "clump", "p p p", "slices in x", 4)], ids=str)
def test_a_rank_is_empty(case: Case, runs: Runs) -> None:
    assert re.search(r"^Nlocal: .* ave +\d+ max +0 min", _log(runs, case), re.MULTILINE)


@pytest.mark.parametrize("case", [Case("dpa3", "one atom, its own images", "p p p", "brick", 1)], ids=str)
def test_ghosts_are_their_own_images(case: Case, runs: Runs) -> None:
    assert int(re.findall(r"^Nghost: +(\d+) ave", _log(runs, case), re.MULTILINE)[-1]) > 20


def test_lists_are_full(eager: Potential) -> None:
    """The crowded box exceeds what each of the tiny model's lists keeps."""
    spec, system = eager.facts.neighbors, BOXES["crowded"]()
    d = system.positions[:, None] - system.positions[None]
    d -= np.round(d / system.cell[0, 0]) * system.cell[0, 0]
    r = np.sqrt((d**2).sum(-1))
    assert all(((r < one.cutoff).sum(1) - 1).max() > one.sel for one in spec.walk())
