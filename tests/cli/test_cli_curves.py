"""Curves that ``dpsim show`` draws with characters, and which of the files of stages hold some."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsim.calculators.statics.properties_run import Properties, write_properties
from dpsim.cli import main as cli
from dpsim.cli.workflows.curves import curves_of, main_curves
from dpsim.cli.workflows.text_plot import Curves, draw

WORKFLOW = """\
dpsim: 1
name: demo
stages:
  a: {uses: command, run: [cp, "{inputs.a}", "{inputs.b}", "{out}"], inputs: {a: {path: msd.csv}, b: {path: rdf.csv}},
      outputs: [msd.csv]}
"""


def field(text: str) -> list[str]:
    """Return what is drawn, without the numbers at the axes."""
    return [line.partition("│")[2] for line in text.splitlines() if "│" in line]


def test_a_line_goes_from_corner_to_corner() -> None:
    text = draw(Curves("t", "x", [0, 10], {"y": [1, 3]}), dots=False, width=31, height=5)
    rows = field(text)
    assert len(rows) == 5
    assert [row.find("*") for row in rows] == sorted((row.find("*") for row in rows), reverse=True)
    assert rows[4].startswith("*")
    assert rows[0].rstrip().endswith("*")
    assert len(rows[0]) == 20
    lines = text.splitlines()
    assert lines[0] == "t:  * y"
    assert [lines[number].split()[0] for number in (1, 3, 5)] == ["3", "2", "1"]
    assert lines[-1].split() == ["0", "x", "10"]
    assert max(map(len, lines)) == 31


def test_braille_has_eight_dots_a_character() -> None:
    text = draw(Curves("y", "x", [0, 1, 2, 3], {"y": [0, 1, 1, 0]}), dots=True, width=13, height=1)
    assert "\x1b[36m" in text  # in colour
    import click

    # Two characters are four columns of dots: the outer ones reach the bottom, the inner ones the top.
    first, second = field(click.unstyle(text))[0]
    assert (ord(first) - 0x2800) & 0x40
    assert (ord(second) - 0x2800) & 0x80
    assert (ord(first) - 0x2800) & 0x08
    assert (ord(second) - 0x2800) & 0x01


def test_logarithms_gaps_and_nothing() -> None:
    curves = Curves("t", "x", [1, 2, 3], {"y": [100.0, math.nan, 1.0], "z": [0.0, -1.0, 10.0]}, log=True)
    lines = draw(curves, dots=False, width=40, height=3).splitlines()
    assert [lines[number].split()[0] for number in (1, 2, 3)] == ["100", "10", "1"]
    assert lines[2].rstrip().endswith("+")  # 10 is the middle of 1 and 100
    assert "*" in field("\n".join(lines))[1]  # joined over what is missing
    assert draw(Curves("t", "x", [1], {"y": [math.nan]})) == "t: nothing to draw"
    assert "│" in draw(Curves("t", "x", [1], {"y": [5.0]}), dots=False)  # one point has no extent


def test_what_holds_curves(tmp_path: Path) -> None:
    def write(name: str, text: str) -> list[Curves]:
        (tmp_path / name).write_text(text)
        return curves_of(tmp_path / name)

    header = "step,learning_rate,loss,rmse_energy_train,rmse_forces_train,rmse_energy_valid,rmse_forces_valid\n"
    energy, forces = write("lcurve.csv", f"{header}1,0.1,3,2,,1.5,\n2,0.1,2,1,0.1,,0.3\n")
    assert (energy.title, list(energy.y), energy.log) == ("error of energy (eV/atom)", ["train", "valid"], True)
    assert math.isnan(forces.y["train"][0])
    (loss,) = write("lcurve.csv", "step,loss\n1,3\n2,2\n")
    assert loss.y == {"loss": [3, 2]}
    (bands,) = write("bands.csv", "part,begin,end,distance,q_1,mode_1_THz,mode_2_THz\n0,G,X,0,0,1,2\n0,G,X,1,0,2,3\n")
    assert (list(bands.y), bands.joined, bands.same) == (["mode_1_THz", "mode_2_THz"], False, True)
    assert draw(bands).splitlines()[0] == "phonon bands (THz)"
    titles = [one.title for one in write("thermo.csv", "step,time_ps,temperature_K,volume_A3\n0,0,300,5\n1,1,310,5\n")]
    assert titles == ["temperature (K)"]  # the volume does not change
    (deviation,) = write("model_devi.out", "# step max_devi_f avg_devi_f\n0 1 0.5\n10 2 0.5\n0 1 0.5\n")
    assert (deviation.x_name, list(deviation.x)) == ("row", [0, 1, 2])
    eos = {"volumes_A3_atom": [1, 2, 3], "energies_eV_atom": [3, 1, 2]}
    write_properties(Properties(details={"copper": {"eos": eos}}), tmp_path)
    (energies,) = curves_of(tmp_path / "properties.json")
    assert (energies.title, list(energies.x)) == ("energy of copper (eV/atom)", [1, 2, 3])
    assert write("other.csv", "a,b\n1,2\n2,3\n") == []
    assert write("rdf.csv", "") == write("rdf.csv", "r_A,Cu-Cu\n") == []
    assert [one.title for one in main_curves(tmp_path)] == ["loss", "temperature (K)"]


def test_show_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> str:
        assert cli.run(["show", *words]) == 0
        return capfd.readouterr().out

    call: Callable[[list[str]], int] = cli.run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msd.csv").write_text("time_ps,Cu_A2\n0,0\n1,2\n2,4\n")
    (tmp_path / "rdf.csv").write_text("r_A,Cu-Cu\n0,0\n1,0\n2,3\n")
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    assert call(["run", "w.yaml", "--quiet"]) == 0
    capfd.readouterr()
    assert shown("a").index("radial distribution:  * Cu-Cu") < shown("a").index("mean square displacement")
    assert "Cu-Cu" in shown("a.rdf")
    assert shown("a.rdf").count("│") == 12
    assert json.loads(shown("a.rdf", "--json"))[2] == {"r_A": "2", "Cu-Cu": "3"}
    assert call(["show", "a.nope"]) == 3
    # What the last run left alone is still there.
    assert call(["run", "w.yaml", "--quiet", "--set", "stages.b={uses: command, run: ['true']}", "--only", "b"]) == 0
    capfd.readouterr()
    assert "Cu-Cu" in shown("a.rdf")
