"""Deviations of several models in molecular dynamics: settings, decks, and the files of several attempts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.deck import Attempt, DeckSettings, deck_text, deviation_name
from dpsim.calculators.md.deviation_output import DeviationFollower, merged_deviation
from dpsim.calculators.md.lammps import run_md
from dpsim.errors import ConfigError

START = {"prototype": "fcc", "element": "Cu", "supercell": [2, 2, 2]}
NVT = {"ensemble": "nvt", "temperature": "300 K", "timestep": "1 fs", "steps": 100}
MODELS = ("model.pt2", "model-2.pt2", "model-3.pt2")


def _config(**changes: Any) -> MDConfig:
    return MDConfig.model_validate({"start": START, "run": NVT, "deviation": {"every": "20 fs"}, **changes})


def _deck(config: MDConfig, **changes: Any) -> list[str]:
    plain = ('pair_style dpsim "model.pt2"', "pair_coeff * * Cu")
    settings = DeckSettings(("Cu",), plain, "p p p", False, 1, **{"ensemble": MODELS, **changes})
    return [line for line in deck_text(config, settings).splitlines() if line.startswith(("pair_", "minimize", "run"))]


ENSEMBLE = 'pair_style dpsim "model.pt2" "model-2.pt2" "model-3.pt2" out_file deviation-{:03d}.out out_freq 20'


def test_deck() -> None:
    lines = _deck(_config())
    assert lines[:2] == [ENSEMBLE.format(1), "pair_coeff * * Cu"]
    assert sum(line.startswith("pair_style") for line in lines) == 1
    assert _deck(_config(), attempt=2, restart=(50, "c.restart"))[0] == ENSEMBLE.format(2)
    words = {"every": "7 steps", "atomic": True, "relative": "0.1 eV/angstrom", "relative_v": 0.5}
    assert _deck(_config(deviation=words))[0].endswith("out_freq 7 atomic relative 0.1 relative_v 0.5")


def test_minimisation_has_none() -> None:
    """It counts steps of its own, which are not those of the dynamics."""
    lines = _deck(_config(run=[{"ensemble": "minimize"}, NVT]))
    assert [line.split()[0] for line in lines[:5]] == [
        "pair_style",
        "pair_coeff",
        "minimize",
        "pair_style",
        "pair_coeff",
    ]
    assert "out_file" not in lines[0]
    assert lines[3] == ENSEMBLE.format(1)
    assert _deck(_config(), ensemble=())[0] == 'pair_style dpsim "model.pt2"'


WRONG = {
    "a time in steps of two lengths": (
        {"run": [NVT, {**NVT, "timestep": "2 fs"}]}, r"segments have time steps of 0\.001 ps and 0\.002 ps: write a num"
    ),
    "nothing moves": ({"run": [{"ensemble": "minimize"}]}, "written along dynamics, but run only minimises"),
    "a limit of nothing": ({"deviation": None, "stop_if": {"max_deviation_force": 1.0}}, "add 'deviation'"),
    "level": ({"deviation": {"every": 5, "relative": -1.0}}, "greater than or equal to 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings(name: str) -> None:
    changes, text = WRONG[name]
    with pytest.raises(ValidationError, match=text):
        _config(**changes)


def test_models_and_deviation_belong_together(tmp_path: Path) -> None:
    from ase.build import bulk

    def run(config: MDConfig, names: tuple[str, ...]) -> None:
        paths = [tmp_path / name for name in names]
        run_md(config, bulk("Cu"), paths, tmp_path / "work", tmp_path / "out", type_map=["Cu"])

    with pytest.raises(ConfigError, match="3 models are given, the first of which drives: say how often"):
        run(_config(deviation=None), MODELS)
    with pytest.raises(ConfigError, match="deviation is that between models, but potential names one"):
        run(_config(), MODELS[:1])
    with pytest.raises(ConfigError, match="no model is given"):
        run(_config(), ())


HEADER = "#       step         max_devi_v\n"


def _write(work: Path, attempt: int, steps: list[int], rest: str = "") -> Path:
    path = work / deviation_name(attempt)
    path.write_text(HEADER + "".join(f"{s:12d} 1 2 3 {attempt}.{s} 5 6\n" for s in steps) + rest)
    return path


def test_attempts_are_joined(tmp_path: Path) -> None:
    """Up to where the next one began, each step once; what was cut short is written again."""
    _write(tmp_path, 1, [0, 10, 20, 20, 30], "          40 1 2")
    _write(tmp_path, 2, [20, 30, 40])
    attempts = [Attempt(1, 0, 0), Attempt(2, 0, 20)]
    lines = merged_deviation(tmp_path, attempts)
    assert lines[0] == HEADER
    assert [line.split()[4] for line in lines[1:]] == ["1.0", "1.10", "1.20", "2.30", "2.40"]
    assert merged_deviation(tmp_path / "nowhere", attempts) == []


def test_follower(tmp_path: Path) -> None:
    follower = DeviationFollower(tmp_path / deviation_name(1))
    assert follower.poll() == []
    path = _write(tmp_path, 1, [0], "          10 1 2 3")
    assert follower.poll() == [(0, 1.0)]
    with path.open("a") as file:
        file.write(" 0.25 5 6\n")
    assert follower.poll() == [(10, 0.25)]
    assert follower.poll() == []
