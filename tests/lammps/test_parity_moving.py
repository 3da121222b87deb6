"""In the middle of a run, when atoms have changed ranks and the box its shape, LAMMPS still gives what Python gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from families import build, freeze
from lammps_runs import NKTV2P, head, run
from parity_cases import box, tilted

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential

pytestmark = pytest.mark.lammps

TOLERANCE = 1e-10  # of the largest value
STEPS = 43
MODELS = ("dpa3", "dpa2-ener", "se_e2_a-ener")


@dataclass(frozen=True)
class Motion:
    """A structure, what moves it, and how the ranks follow."""

    system: str
    lines: str
    boundary: str = "p p p"
    before: str = ""


SYSTEMS = {
    "cube": lambda: box(48, 8.6, 1),
    "half full": lambda: box(30, (18.0, 7.0, 7.0), 6, fill=(8.0, 7.0, 7.0)),
    "tilted": lambda: tilted(48, [[9.0, 0, 0], [2.6, 8.5, 0], [-1.9, 3.1, 8.8]], 3),
}
NVE = "velocity all create 4000 77 loop all\nfix n all nve\n"
MOTIONS = {
    "shifted walls": Motion("half full", NVE + "fix b all balance 5 1.0 shift xyz 10 1.05\n"),
    "rcb": Motion("half full", NVE + "fix b all balance 5 1.0 rcb\n", before="comm_style tiled"),
    "growing cluster": Motion("cube", NVE + "fix b all balance 7 1.0 shift xyz 10 1.05\n", "s s s", "processors * 1 1"),
    "changing box": Motion(
        "tilted",
        "velocity all create 1500 77 loop all\nfix n all npt temp 1500 1500 0.02 tri 0 0 0.1\n"
        "fix b all balance 6 1.0 rcb\n",
        before="comm_style tiled",
    ),
    "flipping box": Motion(
        "tilted", NVE + "timestep 0.001\nfix d all deform 1 xy erate 12.0 remap x\nrun 80\nunfix d\n"
    ),
    "order of atoms": Motion("cube", NVE, before="atom_modify sort 3 2.0"),
}  # fmt: skip
QUICK = ("shifted walls", "rcb", "flipping box")

MEASURE = f"""
timestep 0.001
compute p all pressure NULL virial
thermo_style custom step pe c_p[1] c_p[2] c_p[3] c_p[4] c_p[5] c_p[6] vol
thermo 1
run {STEPS}
write_dump all custom atoms.dump id x y z fx fy fz modify sort id format float %.17g
print "{
    " ".join(
        f"$({name}:%.17g)"
        for name in ("pe", *(f"c_p[{k}]" for k in range(1, 7)), "vol", "lx", "ly", "lz", "xy", "xz", "yz")
    )
}" file totals.txt
"""


@pytest.fixture
def pair(model: str, request: pytest.FixtureRequest, model64: Path, eager: Potential) -> tuple[Path, Potential]:
    """A frozen model and Python's."""
    if model == "dpa3":
        return model64, eager
    frozen = freeze([model], request.config.cache.mkdir("dpsim-models"))
    return frozen[model], Potential(ModuleEngine(build(model), "cpu"), model)


def _is_quick(model: str, name: str, ranks: int) -> bool:
    return name in QUICK and model == "dpa3" and ranks < 4


def _cases() -> list:
    return [
        pytest.param(model, name, ranks, marks=() if _is_quick(model, name, ranks) else pytest.mark.slow)
        for model in MODELS
        for name in MOTIONS
        for ranks in (1, 2, 4)
    ]


@pytest.mark.parametrize(("model", "name", "ranks"), _cases())
def test_in_motion(model: str, name: str, ranks: int, pair: tuple[Path, Potential], tmp_path: Path) -> None:
    motion, (frozen, potential) = MOTIONS[name], pair
    system = SYSTEMS[motion.system]()
    system = type(system)(system.positions, system.symbols, system.cell, motion.boundary)
    before = f"box tilt large\n{motion.before}"
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H")), before=before)
    deck += f"pair_style dpsim {frozen}\npair_coeff * * O H\nneighbor 0.5 bin\nneigh_modify every 1 delay 0 check yes\n"
    text = run(tmp_path, deck + motion.lines + MEASURE, ranks)
    assert int(text.rsplit("Neighbor list builds = ", 1)[1].split()[0]) >= 3, "the run must renew its neighbour list"
    totals, atoms = np.loadtxt(tmp_path / "totals.txt"), np.loadtxt(tmp_path / "atoms.dump", skiprows=9)
    lx, ly, lz, xy, xz, yz = totals[8:]
    assert np.abs(atoms[:, 1:4] - system.positions).max() > 0.5, "the atoms must move"

    cell = np.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]])
    expected = potential.evaluate(atoms[:, 1:4], system.symbols, cell, periodic=system.periodic)
    np.testing.assert_allclose(totals[0], expected.energy, rtol=TOLERANCE)
    scale = TOLERANCE * np.abs(expected.forces).max()
    np.testing.assert_allclose(atoms[:, 4:], expected.forces, rtol=0, atol=scale)
    virial = expected.virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    found = totals[1:7] * totals[7] / NKTV2P
    np.testing.assert_allclose(found, virial, rtol=0, atol=TOLERANCE * np.abs(expected.virial).max())
