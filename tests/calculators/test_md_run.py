"""Runs of LAMMPS with classical potentials: outputs, resumption, failures."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import read, write

from dpsim.calculators.md.analysis import compare_rdf
from dpsim.calculators.md.config import AnalyseConfig, MDConfig, RdfConfig
from dpsim.calculators.md.lammps import run_lammps, run_md
from dpsim.calculators.md.results import MDResult, reference_frames
from dpsim.calculators.md.start import start_structure
from dpsim.data import Frame, write_npy
from dpsim.errors import ConfigError, DataError, Interrupted, ModelError, StageError

pytestmark = pytest.mark.lammps

Launcher = Callable[..., tuple[list[str], dict[str, str]]]


def copper(n: int = 3) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (n, n, n)
    atoms.rattle(0.02, seed=1)
    return atoms


def config(*run: dict[str, Any], **more: Any) -> MDConfig:
    common = {"timestep": "2 fs", "dump": {"every": 20}, "thermo": {"every": 10}}
    segments = [segment if segment["ensemble"] == "minimize" else {**common, **segment} for segment in run]
    return MDConfig.model_validate({"start": "a.xyz", "run": segments, "checkpoint": {"every": 100}, **more})


def rows(result: MDResult) -> list[dict[str, str]]:
    with result.thermo.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("ranks", [1, 2])
def test_segments_and_outputs(tmp_path: Path, launcher: Launcher, copper_lines: list[str], ranks: int) -> None:
    cfg = config(
        {"ensemble": "minimize", "steps": 20},
        {"ensemble": "npt", "temperature": [300, 600], "pressure": "1 bar", "coupling": "triclinic", "steps": 410},
        {"ensemble": "nve", "steps": 300, "timestep": "1 fs"},
        analyse=["rdf", {"msd": {"species": ["Cu"]}}],
    )
    reports: list[tuple[Any, ...]] = []
    result = run_lammps(
        cfg, copper(), copper_lines, tmp_path / "work", tmp_path / "out", elements=("Cu",), ranks=ranks,
        launcher=launcher, progress=lambda *values, **more: reports.append(values),
    )  # fmt: skip
    table = rows(result)
    assert [row["ensemble"] for row in table if row["segment"] == "0"] == ["minimize"] * sum(
        r["segment"] == "0" for r in table
    )
    for segment, steps in ((1, [*range(0, 411, 10)]), (2, [*range(410, 711, 10)])):
        assert [int(row["step"]) for row in table if row["segment"] == str(segment)] == steps
    assert float(table[-1]["time_ps"]) == pytest.approx(0.82 + 0.3)
    frames = read(result.trajectory, ":")
    assert [atoms.info["step"] for atoms in frames] == [*range(0, 711, 20)]
    assert frames[-1].info["time_ps"] == pytest.approx(0.82 + 0.29)
    final = read(result.final)
    kinetic = float(table[-1]["kinetic_eV"])
    assert final.get_kinetic_energy() == pytest.approx(kinetic, rel=1e-3)  # the potential file has its own mass
    assert final.get_volume() == pytest.approx(float(table[-1]["volume_A3"]), rel=1e-8)
    drift = result.summary["segments"][2]["energy_drift"]
    assert abs(drift["slope_meV_atom_ps"]) < 0.05
    assert result.summary["rdf"]["pairs"]["Cu-Cu"]["first_peak"]["r_A"] == pytest.approx(2.56, abs=0.05)
    assert json.loads(result.analysis.read_text())["ranks"] == ranks
    assert (tmp_path / "out/rdf.csv").read_text().startswith("r_A,Cu-Cu\n")
    assert (tmp_path / "out/msd.csv").read_text().startswith("time_ps,Cu_A2\n")
    assert reports[-1] == (710, 710, "analysing")


SEGMENTS: dict[str, dict[str, Any]] = {
    "nose-hoover": {"ensemble": "nvt", "temperature": [300, 900]},
    "langevin": {"ensemble": "nvt", "temperature": 600, "thermostat": "langevin"},
    "barostat": {"ensemble": "npt", "temperature": 600, "pressure": "1 bar", "coupling": "anisotropic"},
}

_DRIVER = """
import sys
from pathlib import Path
from dpsim.calculators.md.lammps import run_lammps
sys.path.insert(0, sys.argv[2])
from test_md_run import SEGMENTS, config, copper
name, _, work, out, ranks, *lines = sys.argv[1:]
cfg = config({**SEGMENTS[name], "steps": 3000}, {"ensemble": "nve", "steps": 1000})
run_lammps(cfg, copper(), lines, Path(work), Path(out), elements=("Cu",), ranks=int(ranks))
"""


def ranks_alive(work: Path) -> list[int]:
    """Processes whose working directory is `work`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == work:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def start_driver(name: str, work: Path, ranks: int, copper_lines: list[str]) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        _DRIVER,
        name,
        str(Path(__file__).parent),
        str(work),
        str(work.parent / "out"),
        str(ranks),
    ]
    return subprocess.Popen([*command, *copper_lines], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def same_outputs(one: Path, other: Path) -> None:
    for name in ("thermo.csv", "trajectory.extxyz", "final.extxyz"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("name", [*SEGMENTS])
def test_killed_run_goes_on_as_the_unbroken_one(
    tmp_path: Path, launcher: Launcher, copper_lines: list[str], name: str
) -> None:
    cfg = config({**SEGMENTS[name], "steps": 3000}, {"ensemble": "nve", "steps": 1000})
    whole = run_lammps(
        cfg, copper(), copper_lines, tmp_path / "w0", tmp_path / "o0", elements=("Cu",), launcher=launcher
    )
    work = tmp_path / "work"
    for reached in (400, 1800):
        process = start_driver(name, work, 1, copper_lines)
        wait_for(lambda step=reached: any(int(p.stem.split("-")[1]) >= step for p in work.glob("checkpoint-*.restart")))  # type: ignore[misc]
        process.kill()
        process.communicate()
        wait_for(lambda: not ranks_alive(work))
    result = run_lammps(cfg, copper(), copper_lines, work, tmp_path / "out", elements=("Cu",), launcher=launcher)
    assert result.attempts == 3
    assert whole.attempts == 1
    same_outputs(tmp_path / "out", tmp_path / "o0")
    again = run_lammps(cfg, copper(), copper_lines, work, tmp_path / "out2", elements=("Cu",), launcher=launcher)
    assert again.attempts == 3, "a finished run is only analysed again"
    same_outputs(tmp_path / "out", tmp_path / "out2")


def test_killed_ranks_are_an_error_and_two_ranks_resume(
    tmp_path: Path, launcher: Launcher, copper_lines: list[str]
) -> None:
    work = tmp_path / "work"
    cfg = config({**SEGMENTS["nose-hoover"], "steps": 12000}, {"ensemble": "nve", "steps": 3000})

    def kill_a_rank(step: int, *_: Any, **__: Any) -> None:
        if step >= 100:
            lammps = [
                pid for pid in ranks_alive(work) if b"lmp" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            ]
            if lammps:
                os.kill(lammps[-1], signal.SIGKILL)

    arguments: dict[str, Any] = {"elements": ("Cu",), "ranks": 2, "launcher": launcher}
    with pytest.raises(StageError, match=r"LAMMPS failed in segment [01] .* a rank was killed"):
        run_lammps(cfg, copper(4), copper_lines, work, tmp_path / "out", progress=kill_a_rank, **arguments)
    wait_for(lambda: not ranks_alive(work))
    result = run_lammps(cfg, copper(4), copper_lines, work, tmp_path / "out", **arguments)
    assert result.attempts == 2
    assert [int(row["step"]) for row in rows(result)] == [*range(0, 12001, 10), *range(12000, 15001, 10)]


@pytest.mark.parametrize("code", [9, 137, 9 | 15, -9])
def test_ranks_that_were_killed(tmp_path: Path, code: int) -> None:
    """Codes of mpiexec: the number of a signal, also joined with that of the signal that ended the other ranks."""
    if code > 0:
        script = f"import sys; sys.exit({code})"
    else:
        script = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(StageError, match="LAMMPS failed in its set-up: a rank was killed, perhaps for want of memory"):
        run_lammps(
            config({"ensemble": "nve", "temperature": 300, "steps": 10}), copper(), ["pair_style none"],
            tmp_path / "w", tmp_path / "o", elements=("Cu",),
            launcher=lambda *_: ([sys.executable, "-c", script], dict(os.environ)),
        )  # fmt: skip


def test_other_settings_start_afresh(tmp_path: Path, launcher: Launcher, copper_lines: list[str]) -> None:
    for temperature in (300, 400):
        cfg = config({"ensemble": "nvt", "temperature": temperature, "steps": 100})
        result = run_lammps(
            cfg, copper(), copper_lines, tmp_path / "w", tmp_path / "o", elements=("Cu",), launcher=launcher
        )
        assert result.attempts == 1
        assert float(rows(result)[0]["temperature_K"]) == pytest.approx(temperature)


def test_first_velocities_do_not_depend_on_ranks(tmp_path: Path, launcher: Launcher, copper_lines: list[str]) -> None:
    cfg = config({"ensemble": "nve", "temperature": 300, "steps": 50})
    one, two = (
        run_lammps(
            cfg,
            copper(),
            copper_lines,
            tmp_path / f"w{n}",
            tmp_path / f"o{n}",
            elements=("Cu",),
            ranks=n,
            launcher=launcher,
        )
        for n in (1, 2)
    )
    assert np.allclose(read(one.final).positions, read(two.final).positions, atol=1e-9)


def test_frames_come_back_in_the_orientation_they_were_given(
    tmp_path: Path, launcher: Launcher, copper_lines: list[str]
) -> None:
    atoms = copper()
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    velocities = np.random.default_rng(0).normal(size=(len(atoms), 3)) * 0.01
    rotation = np.linalg.solve(np.array(atoms.cell), np.array(turned.cell))
    cfg = config({"ensemble": "nve", "steps": 50}, velocities="keep")
    finals = []
    for name, start, speeds in (("a", atoms, velocities), ("b", turned, velocities @ rotation)):
        start.set_velocities(speeds)
        result = run_lammps(
            cfg, start, copper_lines, tmp_path / name, tmp_path / f"o{name}", elements=("Cu",), launcher=launcher
        )
        finals.append(read(result.final))
    assert np.allclose(finals[0].positions @ rotation, finals[1].positions, atol=1e-6)
    assert np.allclose(finals[0].get_velocities() @ rotation, finals[1].get_velocities(), atol=1e-6)
    assert not np.allclose(finals[0].positions, atoms.positions, atol=1e-2)


def test_open_molecule(tmp_path: Path, launcher: Launcher) -> None:
    atoms = Atoms("Ar4", positions=[[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8]])
    lines = ["pair_style lj/cut 10.0", "pair_coeff * * 0.0104 3.4"]
    cfg = config({"ensemble": "nve", "temperature": 10, "steps": 2000})
    result = run_lammps(cfg, atoms, lines, tmp_path / "w", tmp_path / "o", elements=("Ar",), ranks=2, launcher=launcher)
    frames = read(result.trajectory, ":")
    assert not frames[-1].pbc.any()
    assert not frames[-1].cell.any()
    moved = [f.get_center_of_mass() for f in frames]
    assert np.allclose(moved[0], moved[-1], atol=1e-4)
    assert rows(result)[0]["pressure_bar"] == ""


def test_reference_is_put_beside(tmp_path: Path, launcher: Launcher, copper_lines: list[str], shared: Path) -> None:
    cfg = config(
        {"ensemble": "nvt", "temperature": 300, "steps": 200},
        analyse=[{"rdf": {"r_max": 5, "bins": 60}}],
        reference="x",
    )
    result = run_lammps(
        cfg, copper(), copper_lines, tmp_path / "w", tmp_path / "o", elements=("Cu",), launcher=launcher,
        reference=reference_frames([shared / "data/classical/Cu_EAM_test.extxyz"], ("Cu",), ("Cu",)),
    )  # fmt: skip
    entry = result.summary["rdf"]["pairs"]["Cu-Cu"]
    assert 0.5 < entry["overlap"] < 1.0
    assert (tmp_path / "o/rdf.csv").read_text().startswith("r_A,Cu-Cu,Cu-Cu_reference\n")
    assert not list((tmp_path / "w").glob("checkpoint*"))
    # Another analysis needs no other run.
    cfg = cfg.model_copy(update={"analyse": AnalyseConfig(rdf=RdfConfig(r_max=4, bins=40))})
    again = run_lammps(
        cfg, copper(), copper_lines, tmp_path / "w", tmp_path / "again", elements=("Cu",), launcher=launcher
    )
    assert again.summary["rdf"]["r_max"] == pytest.approx(4)
    assert again.attempts == result.attempts == 1


def test_copper_is_that_of_the_reference(
    tmp_path: Path, launcher: Launcher, copper_lines: list[str], shared: Path
) -> None:
    reference = json.loads((shared / "data/classical/md_reference.json").read_text())["Cu_EAM_300K"]
    atoms = bulk("Cu", a=reference["cell_A"][0] / 4, cubic=True) * (4, 4, 4)
    cfg = config(
        {"ensemble": "nvt", "temperature": [600, 300], "steps": 500, "damping": "50 fs"},
        {"ensemble": "nvt", "temperature": 300, "steps": 3000},
        analyse=[{"rdf": {"r_max": "7.0 angstrom", "bins": 120}}],
    )
    result = run_lammps(
        cfg, atoms, copper_lines, tmp_path / "w", tmp_path / "o", elements=("Cu",), ranks=2, launcher=launcher
    )
    segment = result.summary["segments"][1]
    # Independent runs of this length scatter by about 0.2 meV/atom.
    assert segment["potential_eV"]["mean"] / 256 == pytest.approx(reference["pe_mean_eV_atom"], abs=1e-3)
    kinetic = 255 / 3010.936 * 8.617333e-5 * 300 * 160.2177  # N k T / V in GPa
    pressure = reference["P_virial_mean_GPa"] + kinetic
    assert segment["pressure_bar"]["mean"] / 1e4 == pytest.approx(pressure, abs=0.15)
    table = np.genfromtxt(tmp_path / "o/rdf.csv", delimiter=",", names=True)
    comparison = compare_rdf(table["r_A"], table["CuCu"], np.array(reference["g"]))
    assert comparison.overlap > 0.97


def test_lammps_errors_are_passed_on(tmp_path: Path, launcher: Launcher) -> None:
    cfg = config({"ensemble": "nvt", "temperature": 300, "steps": 100})
    arguments: dict[str, Any] = {"elements": ("Cu",), "launcher": launcher}
    with pytest.raises(StageError, match=r"LAMMPS failed in its set-up: Unrecognized pair style 'nonsense'.*log-001"):
        run_lammps(cfg, copper(), ["pair_style nonsense"], tmp_path / "w", tmp_path / "o", **arguments)
    atoms = copper()
    atoms.positions[1] = atoms.positions[0] + 0.3
    lines = ["pair_style lj/cut 6.0", "pair_coeff * * 0.4 2.3"]
    with pytest.raises(StageError, match=r"segment 0 \(nvt\).*(Lost atoms|Non-numeric|not a finite)"):
        run_lammps(cfg, atoms, lines, tmp_path / "w2", tmp_path / "o2", **arguments)
    assert not (tmp_path / "o2/thermo.csv").exists()


def test_hot_run_is_stopped(tmp_path: Path, launcher: Launcher, copper_lines: list[str]) -> None:
    cfg = config({"ensemble": "nvt", "temperature": [300, 2000], "steps": 2000}, stop_if={"max_temperature": "800 K"})
    with pytest.raises(StageError, match=r"passes stop_if.max_temperature \(800 K\)"):
        run_lammps(cfg, copper(), copper_lines, tmp_path / "w", tmp_path / "o", elements=("Cu",), launcher=launcher)


def test_sigterm_stops_and_says_how_to_go_on(tmp_path: Path, launcher: Launcher, copper_lines: list[str]) -> None:
    cfg = config({"ensemble": "nvt", "temperature": 300, "steps": 200_000})
    before = signal.getsignal(signal.SIGTERM)

    def ask_to_stop(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="run again to continue"):
        run_lammps(
            cfg,
            copper(),
            copper_lines,
            tmp_path / "w",
            tmp_path / "o",
            elements=("Cu",),
            launcher=launcher,
            progress=ask_to_stop,
        )
    assert signal.getsignal(signal.SIGTERM) is before
    assert not ranks_alive(tmp_path / "w")


def test_analyses_are_checked_before_the_run(tmp_path: Path) -> None:
    def start(analyse: Any) -> None:
        cfg = config({"ensemble": "nve", "temperature": 300, "steps": 100}, analyse=analyse)
        run_lammps(cfg, copper(), ["pair_style none"], tmp_path / "w", tmp_path / "o", elements=("Cu",))

    with pytest.raises(DataError, match="r_max 7 Å passes half the smallest height"):
        start([{"rdf": {"r_max": 7}}])
    with pytest.raises(DataError, match="pair Cu-O: no O"):
        start([{"rdf": {"pairs": ["Cu-O"]}}])
    with pytest.raises(DataError, match=r"msd.species: no Li"):
        start([{"msd": {"species": ["Li"]}}])
    assert not (tmp_path / "w").exists()


def test_reference_is_checked_before_the_run(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [Atoms("Cu2", [[0, 0, 0], [2, 0, 0]]), Atoms("Al", cell=[4, 4, 4], pbc=True)])
    (tmp_path / "model.pt2").write_bytes(b"")
    cfg = config({"ensemble": "nve", "temperature": 300, "steps": 100}, analyse=["rdf"], reference="x")
    with pytest.raises(DataError, match="none of its 2 frames is periodic"):
        run_md(
            cfg, copper(), [tmp_path / "model.pt2"], tmp_path / "w", tmp_path / "o", type_map=["Cu"],
            reference=[tmp_path / "a.xyz"],
        )  # fmt: skip
    assert not (tmp_path / "w").exists()


def test_references_may_be_data_sets_and_several(tmp_path: Path) -> None:
    frame = Frame(np.zeros((1, 3)), np.array([1]), 4 * np.eye(3), {"energy": np.array(0.0)}, "x")
    write_npy([frame], tmp_path / "data", ("Al", "Cu"))
    next((tmp_path / "data").rglob("type_map.raw")).unlink()
    write(tmp_path / "more.xyz", copper(1))
    atoms, more = reference_frames([tmp_path / "data", tmp_path / "more.xyz"], ("Al", "Cu"), ("Cu",))
    assert atoms.get_chemical_formula() == "Cu"
    assert atoms.pbc.all()
    assert len(more) == 4


def test_start_structures(tmp_path: Path) -> None:
    def start(value: Any) -> Any:
        return MDConfig.model_validate({"start": value, "run": {"ensemble": "minimize"}}).start

    assert len(start_structure(start({"prototype": "fcc", "element": "Cu", "supercell": [2, 2, 2]}))) == 32
    write(tmp_path / "a.xyz", [copper(1), copper(2)], format="extxyz")
    assert (
        len(start_structure(start({"frames": "label.frames", "supercell": [1, 1, 2]}), frames=tmp_path / "a.xyz")) == 64
    )
    assert len(start_structure(start({"path": str(tmp_path / "a.xyz"), "index": 0}))) == 4
    with pytest.raises(ConfigError, match="gives 2 structures"):
        start_structure(start({"path": str(tmp_path / "a.xyz")}))
    with pytest.raises(DataError, match=r"index 2: .* holds 2 frames"):
        start_structure(start({"frames": str(tmp_path / "a.xyz"), "index": 2}))
    with pytest.raises(DataError, match="cannot be read by ASE"):
        start_structure(start(str(tmp_path / "missing.xyz")))


def test_wrong_starts(tmp_path: Path, launcher: Launcher, copper_lines: list[str]) -> None:
    cfg = config({"ensemble": "nve", "steps": 10}, velocities="keep")
    arguments: dict[str, Any] = {"elements": ("Cu",), "launcher": launcher}
    with pytest.raises(ConfigError, match="velocities: keep needs"):
        run_lammps(cfg, copper(), copper_lines, tmp_path / "w", tmp_path / "o", **arguments)
    with pytest.raises(DataError, match="no atoms"):
        run_lammps(cfg, Atoms(), copper_lines, tmp_path / "w", tmp_path / "o", **arguments)
    held = copper()
    held.set_velocities(np.ones((len(held), 3)))
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(DataError, match=r"held \(FixAtoms\), which .* does not know: start: \{path: FILE\} takes"):
        run_lammps(cfg, held, copper_lines, tmp_path / "w", tmp_path / "o", **arguments)
    with pytest.raises(ModelError, match="does not exist"):
        run_md(cfg, copper(), [tmp_path / "no.pt2"], tmp_path / "w", tmp_path / "o", type_map=["Cu"])
    with pytest.raises(ConfigError, match="2 models are given"):
        run_md(cfg, copper(), [tmp_path, tmp_path], tmp_path / "w", tmp_path / "o", type_map=["Cu"])
    (tmp_path / "model.pt2").write_bytes(b"")
    with pytest.raises(DataError, match="contains Cu"):
        run_md(cfg, copper(), [tmp_path / "model.pt2"], tmp_path / "w", tmp_path / "o", type_map=["Al"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_noise_heats_light_and_heavy_atoms_alike(tmp_path: Path, launcher: Launcher, ranks: int) -> None:
    """Atoms that do not touch each other are as hot as the thermostat whatever their masses; the whole stays put."""
    places = [[4.0 * i + 2.0, 6.0, 6.0] for i in range(6)]
    atoms = Atoms("CH3OH", positions=places, cell=[24.0, 12.0, 12.0], pbc=True)
    often = {"dump": {"every": 5000}, "thermo": {"every": 10}, "timestep": "1 fs"}
    cfg = config({"ensemble": "nvt", "temperature": 300, "thermostat": "langevin", "damping": "20 fs",
                  "steps": 20_000, **often})  # fmt: skip
    result = run_lammps(
        cfg, atoms, ["pair_style zero 3.0", "pair_coeff * *"], tmp_path / "work", tmp_path / "out",
        elements=("C", "H", "O"), ranks=ranks, launcher=launcher,
    )  # fmt: skip
    temperature = [float(row["temperature_K"]) for row in rows(result)[100:]]
    assert np.mean(temperature) == pytest.approx(300, rel=0.08)  # 2 % is the error of the mean
    momentum = read(result.final).get_momenta().sum(axis=0)
    assert np.abs(momentum).max() < 1e-6
