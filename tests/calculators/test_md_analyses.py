"""Frames with velocities and forces, what is computed from them, and bonds that end a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read
from pydantic import ValidationError
from test_md_run import config, copper

from dpsim.calculators.md.lammps import run_lammps
from dpsim.calculators.md.results import MDResult
from dpsim.calculators.md.stop import bonds_of, largest_stretch
from dpsim.errors import DataError, StageError

pytestmark = pytest.mark.lammps
Launcher = Callable[..., tuple[list[str], dict[str, str]]]
NVE = {"ensemble": "nve", "temperature": 300, "steps": 200, "dump": {"every": 5}}
NVT = {"ensemble": "nvt", "temperature": 300, "steps": 9}
HARMONIC = ["pair_style zero 4.0", "pair_coeff * *", "fix spring all spring/self 2.0"]


def run(cfg: Any, atoms: Atoms, lines: list[str], folder: Path, launcher: Launcher, out: str = "out") -> MDResult:
    elements = tuple(dict.fromkeys(atoms.get_chemical_symbols()))
    return run_lammps(cfg, atoms, lines, folder / "work", folder / out, elements=elements, launcher=launcher)


def test_frames_hold_what_is_asked_for(tmp_path: Path, launcher: Launcher, copper_lines: list[str]) -> None:
    """Forces are those that move the atoms, velocities those of the thermostat's temperature."""
    dump = {"every": 1, "velocities": True, "forces": True}
    cfg = config(
        {**NVE, "steps": 6, "timestep": "0.5 fs", "dump": dump}, {"ensemble": "nve", "steps": 2, "dump": {"every": 1}}
    )
    turned = copper(2)
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    result = run(cfg, turned, copper_lines, tmp_path, launcher)
    frames = read(result.trajectory, ":")
    assert frames[0].get_temperature() == pytest.approx(300 * 93 / 96, rel=1e-2)
    mass = frames[0].get_masses()[:, None]
    dt = (frames[1].info["time_ps"] - frames[0].info["time_ps"]) * 98.22694788464064
    change = (frames[2].get_velocities() - frames[0].get_velocities()) / (2 * dt)
    np.testing.assert_allclose(frames[1].arrays["dpsim_forces"] / mass, change, rtol=2e-2, atol=1e-3)
    assert not read(result.trajectory, -1).has("momenta")  # of the second segment, which did not ask


def test_spectrum_of_springs_density_and_drift(tmp_path: Path, launcher: Launcher) -> None:
    """Atoms on springs vibrate at the frequency of their mass."""
    atoms = bulk("Al", cubic=True) * (3, 3, 3)
    segment = {**NVE, "timestep": "4 fs", "steps": 1500, "dump": {"every": 2}}
    cfg = config(segment, analyse=["vdos", "density", "drift", {"msd": {"blocks": 3}}])
    result = run(cfg, atoms, HARMONIC, tmp_path, launcher)
    expected = np.sqrt(2.0 / 26.9815385 * 9648.53321) / (2 * np.pi)  # eV/Å² over amu is 9648.5 / ps²
    found = result.summary["vdos"]
    assert found["highest_peak_THz"]["Al"] == pytest.approx(expected, abs=found["resolution_THz"])
    assert found["highest_THz"] == pytest.approx(62.5)
    density = result.summary["density"]["density_g_cm3"]
    assert density["mean"] == pytest.approx(26.9815385 * 1.66053904 / (atoms.get_volume() / 108), rel=1e-6)
    assert abs(result.summary["drift"]["segments"]["0"]["slope_meV_atom_ns"]) < 100
    assert result.summary["msd"]["species"]["Al"]["block_error_A2_per_ps"] >= 0
    for name, header in (("vdos", "frequency_THz,total_per_THz,Al_per_THz"), ("vacf", "time_ps,correlation"),
                         ("density", "time_ps,density_g_cm3")):  # fmt: skip
        assert (tmp_path / f"out/{name}.csv").read_text().splitlines()[0] == header
    assert result.attempts == 1
    # Less of the same frames needs no other run; more does.
    again = run(config(segment, analyse=["rdf"]), atoms, HARMONIC, tmp_path, launcher, "again")
    assert (again.attempts, read(again.trajectory, 0).has("momenta")) == (1, False)
    log = (tmp_path / "work/log-001.lammps").stat().st_mtime_ns
    more = run(config({**segment, "dump": {"every": 2, "forces": True}}), atoms, HARMONIC, tmp_path, launcher, "more")
    assert "dpsim_forces" in read(more.trajectory, 0).arrays
    assert (tmp_path / "work/log-001.lammps").stat().st_mtime_ns != log


@pytest.mark.parametrize(
    "segment",
    [
        {"ensemble": "nvt", "thermostat": "csvr"},
        {"ensemble": "npt", "thermostat": "csvr", "pressure": "1 bar", "coupling": "triclinic"},
        {"ensemble": "npt", "pressure": "1 bar", "barostat": "berendsen", "bulk_modulus": "140 GPa",
         "pressure_damping": "0.2 ps"},
        {"ensemble": "npt", "thermostat": "langevin", "pressure": "1 bar", "barostat": "berendsen",
         "coupling": "anisotropic"},
    ],
)  # fmt: skip
def test_thermostats_and_barostats(
    tmp_path: Path, launcher: Launcher, copper_lines: list[str], segment: dict[str, Any]
) -> None:
    cfg = config({**segment, "temperature": 400, "damping": "20 fs", "steps": 1500, "thermo": {"every": 5}})
    result = run(cfg, copper(), copper_lines, tmp_path, launcher)
    assert result.summary["segments"][0]["temperature_K"]["mean"] == pytest.approx(400, rel=0.05)
    if segment["ensemble"] == "npt" and "bulk_modulus" in segment:
        assert result.summary["segments"][0]["pressure_bar"]["mean"] == pytest.approx(0, abs=4000)


def test_a_bond_that_breaks_ends_the_run(tmp_path: Path, launcher: Launcher) -> None:
    """What counts is the frame at which it was too long, not when it was seen; another limit goes on."""
    atoms = Atoms("H2", [[4, 4, 4], [4.74, 4, 4]], cell=[9, 9, 9], pbc=True)
    atoms.set_velocities([[0, 0, 0], [0.05, 0, 0]])  # Å per unit of time of ASE: 4.9 Å/ps
    segment = {"ensemble": "nve", "steps": 4000, "timestep": "0.1 fs", "dump": {"every": 10}}
    free = ["pair_style zero 4.0", "pair_coeff * *"]

    def stretched(**stop: Any) -> MDResult:
        cfg = config(segment, velocities="keep", stop_if=stop, analyse=["msd"])
        return run(cfg, atoms, free, tmp_path, launcher)

    result = stretched(max_bond_stretch=1.5)
    stopped = result.summary["stopped"]
    assert stopped["step"] == 760  # 0.37 Å at 4.911 Å/ps take 0.0753 ps
    assert stopped["time_ps"] == pytest.approx(0.076)
    assert stopped["reason"].startswith("the bond H0-H1 has 1.5")
    assert [frame.info["step"] for frame in read(result.trajectory, ":")] == [*range(0, 761, 10)]
    assert read(result.final).get_distance(0, 1) == pytest.approx(0.74 + 0.076 * 4.911, abs=1e-3)
    assert "Atoms" in result.final_data.read_text()
    with pytest.raises(StageError, match=r"segment 0 \(nve\) at step 760: the bond H0-H1 .* stop_if.max_bond_stretch"):
        stretched(max_bond_stretch=1.5, then="fail")
    short = stretched(max_bond_stretch=1.001)
    assert short.summary["msd"] == {
        "left_out": "msd needs at least 4 frames, found 2: write frames more often (dump.every) or run longer"
    }
    whole = stretched(max_bond_stretch=9)
    assert "stopped" not in whole.summary
    assert read(whole.trajectory, -1).info["step"] == 4000


def test_bonds_of_molecules_and_their_images() -> None:
    water = molecule("H2O")
    water.set_cell([6, 6, 6])
    water.set_pbc(True)
    water.translate([5.9, 0.3, 3.0])
    plain = bonds_of(water)
    assert sorted(zip(plain.i, plain.j, strict=True)) == [(0, 1), (0, 2)]
    wrapped = water.copy()
    wrapped.wrap()
    across = bonds_of(wrapped)
    np.testing.assert_allclose(sorted(across.lengths), sorted(plain.lengths))
    longer = wrapped.positions.copy()
    longer[1] += 0.5 * (water.positions[1] - water.positions[0])
    found = largest_stretch(across, longer, np.array(wrapped.cell))
    assert (found.i, found.j, found.ratio) == (0, 1, pytest.approx(1.5))
    with pytest.raises(DataError, match=r"no pair of atoms nearer than 1\.25 times"):
        bonds_of(Atoms("Ar2", [[0, 0, 0], [4, 0, 0]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"analyse": ["drift"], "run": NVT}, "drift needs segments of nve"),
        ({"analyse": [{"drift": {"segments": [1]}}]}, "drift needs segments of nve"),
        ({"analyse": [{"density": {"segments": [4]}}]}, "density.segments: 4 is not a dynamics segment"),
        ({"analyse": ["vdos"], "run": {**NVE, "dump": {"every": 100}}}, "vdos needs at least 4 frames"),
        ({"analyse": [3]}, r"write a name \(rdf, msd, vdos, density, drift\)"),
        ({"run": {**NVT, "ensemble": "npt", "pressure": 1, "bulk_modulus": "1 GPa"}}, "bulk_modulus"),
        ({"run": {**NVT, "ensemble": "npt", "pressure": 1, "barostat": "berendsen", "coupling": "triclinic"}},
         "does not change angles"),
        ({"stop_if": {"max_bond_stretch": 0.9}}, "greater than 1"),
    ],
)  # fmt: skip
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    from dpsim.calculators.md.config import MDConfig

    with pytest.raises(ValidationError, match=message):
        MDConfig.model_validate({"start": "a.xyz", "run": NVE, **changes})
