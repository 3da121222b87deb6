"""The stage md and the command ``dpsim md`` with frozen models: engines, scripts, ensembles, type labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from click.testing import CliRunner
from deck_table import liquid
from ensembles import swapped

from dpsim.calculators.ase import DPCalculator
from dpsim.calculators.lammps_data import lammps_box, write_data
from dpsim.errors import ConfigError
from dpsim.workflow.context import Artifact, Context, Granted
from dpsim.workflow.stages.md import MDStage

pytestmark = pytest.mark.lammps
NVE = {"ensemble": "nve", "steps": 8, "timestep": "0.2 fs", "dump": {"every": 4, "forces": True}}


def start() -> Atoms:
    system = liquid(24, 7.0)
    atoms = Atoms(system.symbols, system.positions, cell=system.cell, pbc=True)
    atoms.set_velocities(np.random.default_rng(0).normal(size=(24, 3)) * 0.01)
    return atoms


def execute(
    folder: Path, model: Path, inputs: dict[str, Path], ranks: int = 2, mpi: str | None = None, **options: Any
) -> Path:
    stage = MDStage.model_validate({"uses": "md", "potential": "frozen", **options})
    given = {name: (Artifact((path,)),) for name, path in {"potential": model, **inputs}.items()}
    out, work = folder / "out", folder / "work"
    out.mkdir(parents=True)
    work.mkdir()
    granted = Granted(ranks=ranks, mpi=mpi)
    stage.execute(Context(given, out, work, seed=3, resources=granted, type_map=("O", "H"), base=folder))
    return out


def test_both_engines_take_the_same_steps(model64: Path, tmp_path: Path) -> None:
    """From a data file with type labels, whose velocities are kept, as well as from extended XYZ."""
    atoms = start()
    write(tmp_path / "s.extxyz", atoms)
    write_data(tmp_path / "s.data", atoms, ("O", "H"), lammps_box(atoms), tilt=False, velocities=True)
    outs = []
    for engine, name in (("ase", "s.extxyz"), ("lammps", "s.data")):
        out = execute(
            tmp_path / engine,
            model64,
            {"start": tmp_path / name},
            1 if engine == "ase" else 2,
            "host",
            engine=engine,
            start=name,
            run=NVE,
            velocities="keep",
        )
        outs.append(read(out / "trajectory.extxyz", ":"))
    assert len(outs[0]) == len(outs[1]) == 3
    assert 'pair_style dpsim "model.pt2" mpi host\n' in (tmp_path / "lammps" / "work" / "in-001.lammps").read_text()
    for one, other in zip(*outs, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-7)
        np.testing.assert_allclose(one.arrays["dpsim_forces"], other.arrays["dpsim_forces"], atol=1e-6)
    calculated = outs[0][-1].copy()
    calculated.calc = DPCalculator(model64)
    np.testing.assert_allclose(outs[1][-1].arrays["dpsim_forces"], calculated.get_forces(), atol=1e-6)


def test_ranks_of_ase_are_refused(model64: Path, tmp_path: Path) -> None:
    write(tmp_path / "s.extxyz", start())
    hot = {**NVE, "temperature": 300}
    with pytest.raises(ConfigError, match="2 ranks, but engine: ase runs in one process"):
        execute(tmp_path / "x", model64, {"start": tmp_path / "s.extxyz"}, start="s.extxyz", engine="ase", run=hot)
    stage = MDStage.model_validate(
        {"uses": "md", "potential": "f", "start": "l.frames", "run": hot, "engine": "ase",
         "resources": {"ranks": 2}}
    )  # fmt: skip
    assert [place for place, _ in stage.problems()] == [("resources", "ranks")]
    assert stage.wanted().ranks == 1


SCRIPT = """\
units metal
read_data ${start}
velocity all create ${T} ${seed} loop all
fix n all nve
timestep 0.0002
thermo 2
dump d all custom 4 mine.dump id type xu yu zu
run 8
"""


def test_a_script_of_the_user_gets_the_model(model64: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = start()
    write(tmp_path / "s.extxyz", atoms)
    (tmp_path / "my.in").write_text(SCRIPT)
    script = {"path": "my.in", "variables": {"T": 300}, "frames": "mine.dump"}
    out = execute(
        tmp_path / "x", model64, {"start": tmp_path / "s.extxyz", "script": tmp_path / "my.in"},
        start="s.extxyz", script=script,
    )  # fmt: skip
    lines = 'pair_style dpsim "model.pt2" | pair_coeff * * O H'
    assert f"pair lines put behind line 2 of my.in: {lines}" in capsys.readouterr().err
    analysis = json.loads((out / "analysis.json").read_text())
    assert " | ".join(analysis["injected"]) == lines
    table = np.genfromtxt(out / "thermo.csv", delimiter=",", names=True)
    atoms.calc = DPCalculator(model64)
    assert table["E_pair"][0] == pytest.approx(atoms.get_potential_energy(), rel=1e-7)
    assert table["Step"].tolist() == [0, 2, 4, 6, 8]
    frames = read(out / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 4, 8]
    assert frames[0].get_chemical_formula() == atoms.get_chemical_formula()


def test_outputs_of_a_script_are_declared() -> None:
    stage = MDStage.model_validate(
        {"uses": "md", "potential": "f", "script": {"path": "a.in", "types": ["O", "H"], "files": ["b.data"]}}
    )
    assert [source.value.path for source in stage.sources() if source.slot != "potential"] == ["a.in", "b.data"]  # type: ignore[union-attr]
    assert set(stage.declared_outputs()) == {"log", "files", "input", "thermo", "analysis"}
    assert stage.main_output() == "log"
    assert [symbol for _, symbol in stage.elements()] == ["O", "H"]


def test_command_with_several_models(model64: Path, tmp_path: Path) -> None:
    from dpsim.cli.simulations.md import command

    write(tmp_path / "s.extxyz", start())
    other = swapped(model64, tmp_path / "other.pt2")
    words = [
        str(model64),
        str(other),
        str(tmp_path / "s.extxyz"),
        "--ensemble",
        "nvt",
        "--timestep",
        "0.2 fs",
        "--time",
    ]
    words += ["4 fs", "--dump-every", "1 fs", "--deviation-every", "5 steps", "--ranks", "1", "--no-rdf", "--quiet"]
    run = [*words, "--analyse", "density", "--run-dir", str(tmp_path / "run")]
    result = CliRunner().invoke(command, run, standalone_mode=False)
    assert result.return_value == 0, result.output
    out = tmp_path / "run/stages/md/out"
    table = np.loadtxt(out / "model_devi.out")
    assert table[:, 0].tolist() == [0, 5, 10, 15, 20]
    assert f"deviation of the models: largest {table[:, 4].max():.4g}, mean" in result.output
    ended = CliRunner().invoke(command, [*run, "--max-deviation", "1e-6 eV/angstrom"], standalone_mode=False)
    assert ended.return_value == 0
    assert "ended at step 0: the models deviate by" in ended.output
    assert len(read(out / "trajectory.extxyz", ":")) == 1


def test_command_refuses_what_has_no_effect(model64: Path, tmp_path: Path) -> None:
    from dpsim.cli.simulations.md import command

    write(tmp_path / "s.extxyz", start())
    words = [str(model64), str(tmp_path / "s.extxyz")]
    for more, text in (
        (["--deviation-every", "5 steps"], "--deviation-every is about several models, but one is given"),
        (["--max-deviation", "1"], "--max-deviation is about several models"),
        (["--engine", "ase", "--ranks", "2"], "--ranks has no effect with --engine ase"),
    ):
        result = CliRunner().invoke(command, [*words, *more])
        assert result.exit_code == 2
        assert text in " ".join(result.output.split())
    shown = CliRunner().invoke(command, [*words, "--engine", "ase", "--analyse", "vdos", "--print-yaml"])
    assert "engine: ase" in shown.output
    assert "vdos" in shown.output
