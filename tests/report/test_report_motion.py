"""What a report shows of vibrations, density, the deviation of an ensemble, and a run that was ended early."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import samples

from dpsim.calculators.deviation import Deviation, write_deviations
from dpsim.errors import DataError
from dpsim.report.blocks import Section
from dpsim.report.build import build_report
from dpsim.report.motion import read_deviation

REASON = "the bond O0-H1 has 1.7 times its length at the start, which passes stop_if.max_bond_stretch (1.6)"


def _section(folder: Path) -> Section:
    section = samples.dynamics(folder, 200)
    out = section.out
    frequency = np.linspace(0, 250, 300)
    states = np.exp(-((frequency - 105) ** 2) / 8) + 0.4 * np.exp(-((frequency - 15) ** 2) / 40)
    columns = {"frequency_THz": frequency, "total_per_THz": states, "O_per_THz": states, "H_per_THz": 2 * states}
    samples.write(out / "vdos.csv", samples.csv(columns))
    time = np.linspace(0, 3, 50)
    samples.write(out / "density.csv", samples.csv({"time_ps": time, "density_g_cm3": 1 + 0.01 * np.sin(9 * time)}))
    rng = np.random.default_rng(0)
    found = [Deviation(rng.uniform(0.01, 0.2, 6), np.full((3, 3), 0.1), 0.01) for _ in range(80)]
    write_deviations(out / "model_devi.out", found, steps=[10 * k for k in range(80)], atomic=True)
    analysis = json.loads((out / "analysis.json").read_text())
    analysis |= {
        "engine": "ase",
        "stopped": {"segment": 1, "step": 790, "time_ps": 0.395, "reason": REASON},
        "vdos": {"highest_THz": 500.0, "resolution_THz": 0.8, "highest_peak_THz": {"O": 15.0, "H": 105.0}},
        "density": {"density_g_cm3": {"mean": 0.998, "std": 0.01, "error": 0.002}},
        "msd": {"left_out": "msd needs at least 4 frames, found 2"},
    }
    (out / "analysis.json").write_text(json.dumps(analysis))
    return Section(section.name, section.type, out, {"stop_if": {"max_deviation_force": 0.25}})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    folder = tmp_path_factory.mktemp("motion")
    text = build_report([_section(folder / "md")], folder / "report").read_text()
    return text, json.loads((folder / "report/summary.json").read_text())


def test_a_run_that_was_ended_says_where_and_why(page: tuple[str, dict]) -> None:
    text, summary = page
    card = summary["cards"][0]
    assert (card["label"], card["value"], card["unit"], card["note"]) == ("MD ended early", "0.395", "ps", REASON)
    plain = re.sub(r"\s+", " ", text)
    assert f"It was ended at step 790 because {REASON}." in plain
    assert "Left out: msd (msd needs at least 4 frames, found 2)." in plain
    assert "driven by the frozen model in ASE" in plain


def test_figures(page: tuple[str, dict]) -> None:
    text, summary = page
    assert "Resolution 0.800 THz, highest 500 THz." in text
    assert "O 15 THz (500 cm⁻¹), H 105 THz (3\u2009502 cm⁻¹)" in text
    assert "Density over time: mean 0.998 ± 0.0020 g/cm³" in text
    assert re.search(
        r"Histogram of the largest deviation of a force in 80 structures: median 0\.1\d+, 95 % below", text
    )
    assert "deviation of forces (eV/Å)" in text
    assert ">stop_if<" in text
    assert {card["label"]: card["value"] for card in summary["cards"]}["Density"] == "0.9980"


def test_damaged_deviations(tmp_path: Path) -> None:
    path = tmp_path / "model_devi.out"
    path.write_text("# step max_devi_v max_devi_f\n 0 1.0\n")
    with pytest.raises(DataError, match="does not fit its header"):
        read_deviation(path)
    path.write_text("# step\n")
    assert read_deviation(path) is None


def test_runs_from_several_starts(tmp_path: Path) -> None:
    section = _section(tmp_path / "md")
    one = json.loads((section.out / "analysis.json").read_text())
    both = {
        "starts": [one, {**one, "stopped": None}],
        "stopped_starts": [0],
        "frames": 240,
        "engine": "lammps",
        "ranks": 2,
    }
    (section.out / "analysis.json").write_text(json.dumps(both))
    text = build_report([section], tmp_path / "report").read_text()
    assert "Runs from 2 structures; 1 of them ended early." in text
    assert f"0.395 ps: {REASON}" in text
    assert "Histogram of the largest deviation" in text
