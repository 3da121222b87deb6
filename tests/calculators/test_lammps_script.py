"""Inputs of the user: where pair lines go, variables, what comes back, and going on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read
from pydantic import ValidationError
from test_md_run import copper

from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.script import MARKER, inject, read_thermo, run_script, thermo_csv
from dpsim.errors import ConfigError, Interrupted, StageError

Launcher = Callable[..., tuple[list[str], dict[str, str]]]
LINES = ["pair_style zero 5.0", "pair_coeff * *"]

SCRIPT = """\
# copper # of mine
units metal
atom_style atomic
if "${resumed} == no" then "read_data ${start}" else "read_restart ${resume}"
# dpsim: pair
velocity all create ${T} ${seed} loop all
fix n all nve
timestep 0.002
thermo 20
dump d all custom 50 mine.lammpstrj id type xu yu zu
dump_modify d sort id
restart ${every} mine.restart.*
run 200 upto
run 10
print "value ${T}" file answer.txt
"""


def config(**script: Any) -> MDConfig:
    more = {"analyse": script.pop("analyse")} if "analyse" in script else {}
    return MDConfig.model_validate(
        {"start": {"prototype": "fcc", "element": "Cu"}, "script": {"path": "mine.in", **script}, **more}
    )


def run(folder: Path, cfg: MDConfig, launcher: Launcher, lines: list[str], text: str = SCRIPT, **more: Any) -> Any:
    source, model = folder / "mine.in", folder / "model.pt2"
    source.write_text(text)
    model.write_bytes(b"not looked at")
    assert cfg.script is not None
    return run_script(
        cfg, cfg.script, source, copper(2), [model], folder / "work", folder / "out", type_map=("Cu",), seed=5,
        launcher=launcher, pair_lines=lines, **more,
    )  # fmt: skip


def test_lines_go_behind_every_box() -> None:
    text = (
        "units metal\nread_data a.data &\n  extra/atom/types 1 # more\nrun 0\nread_data b.data add append\nclear\n"
        "read_restart c\nrun 0"
    )
    found = inject(text, LINES)
    assert found.after == (3, 7)
    rows = found.text.splitlines()
    assert [row for row in rows if row not in text.splitlines()] == ["# ---- by dpsim", *LINES, "# ----"] * 2
    assert rows[3:7] == ["# ---- by dpsim", *LINES, "# ----"]
    marked = inject(f"read_data a\nchange_box all triclinic\n {MARKER}\nrun 0", LINES)
    assert marked.after == (3,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("read_data x\npair_style eam\n", r"mine\.in:2: pair_style is written by dpsim, .* remove the line"),
        ("read_data x\npair_coeff &\n * *\n", r"mine\.in:2: pair_coeff is written by dpsim"),
        ("units metal\nif 1 then 'read_data x'\n", r"no line read_data, read_restart or create_box .* '# dpsim: pair'"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inject(text, LINES, "mine.in")
    inject("read_data x # pair_style is not set here\nprint 'pair_style # no'\n", LINES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": {"ensemble": "nve", "temperature": 1, "steps": 9}}, "run is what a script says itself"),
        ({"stop_if": {"max_temperature": 5}}, "stop_if is what a script says itself"),
        ({"analyse": ["msd"]}, "only rdf is computed"),
        ({"analyse": ["rdf"]}, "the dump that script.frames names"),
        ({"start": None}, "name the element of each LAMMPS atom type"),
        ({"script": {"path": "x", "variables": {"seed": 1}}}, "seed is given by dpsim"),
        ({"script": {"path": "x", "variables": {"a b": 1}}}, "'a b' is not a name"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MDConfig.model_validate({"start": "a.xyz", "script": "mine.in", **changes})
    with pytest.raises(ValidationError, match=r"md needs start and run \(or a script of LAMMPS\)"):
        MDConfig.model_validate({})


@pytest.mark.lammps
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_script_runs(tmp_path: Path, launcher: Launcher, copper_lines: list[str], ranks: int) -> None:
    cfg = config(variables={"T": 450, "every": 100}, frames="mine.lammpstrj", analyse=[{"rdf": {"r_max": 3.6}}])
    said: list[str] = []
    summary = run(
        tmp_path, cfg, launcher, copper_lines, ranks=ranks, progress=lambda done, total, text, **_: said.append(text)
    )
    assert said[0] == f"pair lines behind line 5: {' | '.join(copper_lines)}"
    assert (summary["injected"], summary["after_lines"], summary["attempts"]) == (copper_lines, [5], 1)
    out = tmp_path / "out"
    frames = read(out / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 50, 100, 150, 200]
    assert frames[0].get_chemical_formula() == "Cu32"
    np.testing.assert_allclose(frames[0].positions, copper(2).positions, atol=1e-4)
    table = np.genfromtxt(out / "thermo.csv", delimiter=",", names=True)
    assert table["Step"].tolist() == [*range(0, 201, 20), 200, 210]
    assert table["run"].tolist() == [0] * 11 + [1] * 2
    assert table["Temp"][0] == pytest.approx(450)
    assert np.ptp(table["TotEng"]) < 0.05
    assert (out / "files/answer.txt").read_text() == "value 450\n"
    assert {path.name for path in (out / "files").iterdir()} >= {"mine.restart.100", "mine.restart.200"}
    assert "# ---- by dpsim" in (out / "in.lammps").read_text()
    assert np.genfromtxt(out / "rdf.csv", delimiter=",", names=True)["CuCu"].max() > 3
    # Another analysis runs nothing; another variable does.
    assert run(tmp_path, config(variables={"T": 450, "every": 100}), launcher, copper_lines)["attempts"] == 1
    run(tmp_path, config(variables={"T": 300, "every": 100}), launcher, copper_lines)
    assert (tmp_path / "out/files/answer.txt").read_text() == "value 300\n"


@pytest.mark.lammps
def test_a_script_that_was_stopped_gets_its_restart_file(
    tmp_path: Path, launcher: Launcher, copper_lines: list[str]
) -> None:
    text = (
        SCRIPT.replace("run 200 upto", "run 400000 upto")
        .replace("dump_modify d sort id\n", "")
        .replace("velocity all create", 'if "${resumed} == no" then "velocity all create')
        .replace("loop all", 'loop all"')
    )
    cfg = config(variables={"T": 450, "every": 100})
    work = tmp_path / "work/run"

    def stop(*_: Any, **__: Any) -> None:
        if len(list(work.glob("mine.restart.*"))) > 3:
            raise Interrupted("stopped by a signal")

    with pytest.raises(Interrupted):
        run(tmp_path, cfg, launcher, copper_lines, text, progress=stop)
    newest = max(int(path.suffix[1:]) for path in work.glob("mine.restart.*"))

    def stop_again(*_: Any, **__: Any) -> None:
        log = work / "log.lammps"
        if (work / "log-001.lammps").exists() and log.exists() and read_thermo(log.read_text(errors="replace")):
            raise Interrupted("stopped by a signal")

    with pytest.raises(Interrupted):
        run(tmp_path, cfg, launcher, copper_lines, text, progress=stop_again)
    rows = [row for _, table in read_thermo((work / "log.lammps").read_text(errors="replace")) for row in table]
    assert 0 < newest - 100 <= rows[0][0] <= newest + 100
    timed = cfg.model_copy(update={"walltime": 0.3})
    with pytest.raises(Interrupted, match=r"the walltime of 0\.3 s is over .*; run again to continue"):
        run(tmp_path, timed, launcher, copper_lines, text)
    assert (work / "log-001.lammps").exists()


@pytest.mark.lammps
def test_errors_of_lammps(tmp_path: Path, launcher: Launcher) -> None:
    cfg = config(variables={"T": 450, "every": 100})
    with pytest.raises(
        StageError, match=r"LAMMPS failed in the script: Unrecognized pair style 'nonsense'.*log.lammps"
    ):
        run(tmp_path, cfg, launcher, ["pair_style nonsense"])


def test_tables_of_different_runs() -> None:
    log = (
        "Step Temp PotEng\n 0 300 -1.5\nWARNING: something\n 10 301 -1.6\nLoop time of 1 on 1 procs\n"
        "---\nkeywords: ['Step', 'Press', ]\ndata:\n  - [10, 5.5, ]\n  - [20, 6.5, ]\n...\nLoop time of 1\n"
    )
    tables = read_thermo(log)
    assert tables == [
        (["Step", "Temp", "PotEng"], [[0, 300, -1.5], [10, 301, -1.6]]),
        (["Step", "Press"], [[10, 5.5], [20, 6.5]]),
    ]
    assert thermo_csv(tables).splitlines() == [
        "run,Step,Temp,PotEng,Press", "0,0,300,-1.5,", "0,10,301,-1.6,", "1,10,,,5.5", "1,20,,,6.5",
    ]  # fmt: skip
