"""The deviation of an ensemble: DeePMD-kit's numbers, definitions, the command, and what can go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from click.testing import CliRunner

from dpsim.calculators.deviation import model_deviation, write_deviations
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, load
from dpsim.cli.models.model import model as command
from dpsim.errors import DataError, ModelError
from dpsim.testing import tiny_models

CELL = np.diag([6.2, 6.4, 6.6])
POSITIONS = np.array(
    [[0.1, 0.2, 0.3], [1.0, 0.4, 0.2], [0.0, 1.1, 0.5], [3.1, 3.0, 3.2], [4.0, 3.3, 3.1], [2.9, 3.9, 3.6]]
)
SYMBOLS = ("O", "H", "H", "O", "H", "H")
CHECKPOINTS = ("ckpt_dpa3.ckpt-10.pt", "ckpt_se_a.ckpt-10.pt", "ckpt_se_a.ckpt-5.pt")

# calc_model_devi of DeePMD-kit 3.2.0 for these checkpoints, frame by frame: virial (largest, least, mean), forces
# likewise, energy, and the forces on all atoms. Relative ones with levels 0.5 and 0.02.
PEER = [
    [0.0107869173, 0.0011079987, 0.0051750192, 0.056631132, 0.0262011163, 0.0400320728, 0.4628999714,
     0.056631132, 0.0393850764, 0.0393850764, 0.0446193672, 0.0339706683, 0.0262011163],
    [0.0109384733, 0.0012143968, 0.0048304717, 0.0512814564, 0.0236644634, 0.0364889875, 0.4623708972,
     0.0512814564, 0.0236644634, 0.0438928713, 0.0422790662, 0.0257105464, 0.0321055216],
]  # fmt: skip
PEER_RELATIVE = [
    [0.2808798083, 0.0288511038, 0.1347519738, 0.0988970686, 0.0494446872, 0.0725716003, 0.4628999714,
     0.0988970686, 0.0720368733, 0.0720368733, 0.0801265899, 0.0628875098, 0.0494446872],
    [0.2952523272, 0.0327791146, 0.1303845584, 0.0907248306, 0.0449771979, 0.066680865, 0.4623708972,
     0.0907248306, 0.0449771979, 0.0793677264, 0.0765838853, 0.0486524523, 0.0597790975],
]  # fmt: skip


def _frames() -> list[Atoms]:
    moved = POSITIONS + np.random.default_rng(3).uniform(-0.1, 0.1, POSITIONS.shape)
    return [Atoms(SYMBOLS, x, cell=CELL, pbc=True) for x in (POSITIONS, moved)]


def _tiny(name: str, seed: int) -> Potential:
    return Potential(
        ModuleEngine(tiny_models()[name].build(seed=seed).with_precision("float64"), "cpu"), f"{name}-{seed}"
    )


@pytest.mark.parametrize(("levels", "expected"), [({}, PEER), ({"relative": 0.5, "relative_v": 0.02}, PEER_RELATIVE)])
def test_numbers_of_the_peer(levels: dict[str, float], expected: list[list[float]], golden: Path) -> None:
    potentials = [load(golden / name) for name in CHECKPOINTS]
    for one, wanted in zip(model_deviation(potentials, _frames(), **levels), expected, strict=True):
        np.testing.assert_allclose([*one.columns, one.energy, *one.forces], wanted, rtol=0, atol=2e-10)


def test_definition() -> None:
    """A standard deviation over the models; virials and energies are those of an atom. Any number of frames."""
    potentials = [_tiny("se_e2_a-ener", seed) for seed in (1, 2, 3, 4)]
    frames = [*_frames()] * 40
    found = model_deviation(potentials, frames, relative=0.1)
    assert len(found) == 80
    for atoms, one in zip(frames[:2], found, strict=False):
        said = [p.evaluate(atoms.positions, SYMBOLS, CELL) for p in potentials]
        forces = np.array([p.forces for p in said])
        spread = np.sqrt(((forces - forces.mean(0)) ** 2).sum(-1).mean(0))
        np.testing.assert_allclose(one.forces, spread / (np.linalg.norm(forces.mean(0), axis=-1) + 0.1), rtol=1e-12)
        virials = np.array([p.virial for p in said]) / 6
        np.testing.assert_allclose(one.virial, np.sqrt(((virials - virials.mean(0)) ** 2).mean(0)), rtol=1e-12)
        np.testing.assert_allclose(one.energy, np.std([p.energy for p in said]) / 6, rtol=1e-12)
    np.testing.assert_array_equal(found[2].forces, found[0].forces)


def test_spins_and_open_structures() -> None:
    """Magnetic forces have columns of their own; frames may be arguments of a potential."""
    potentials = [_tiny("spin", seed) for seed in (1, 2)]
    spins = np.random.default_rng(1).normal(size=(6, 3))
    (one,) = model_deviation(potentials, [{"positions": POSITIONS, "types": SYMBOLS, "spin": spins}])
    magnetic = np.array([p.evaluate(POSITIONS, SYMBOLS, spin=spins).magnetic_forces for p in potentials])
    assert one.magnetic_forces is not None
    np.testing.assert_allclose(one.magnetic_forces, np.linalg.norm(magnetic[0] - magnetic[1], axis=-1) / 2, atol=1e-14)
    assert len(one.columns) == 9


def test_table(tmp_path: Path) -> None:
    potentials = [_tiny("se_e2_a-ener", seed) for seed in (1, 2)]
    found = model_deviation(potentials, [*_frames(), Atoms("H", [[0, 0, 0]])])
    write_deviations(tmp_path / "plain.out", found)
    names = [f"{what}_devi_{kind}" for kind in "vf" for what in ("max", "min", "avg")]
    header = (tmp_path / "plain.out").read_text().splitlines()[0]
    assert header.split() == ["#", "step", *names, "devi_e"]
    assert [header.index(name) + len(name) for name in names] == [12 + 19 * k for k in range(1, 7)]
    table = np.loadtxt(tmp_path / "plain.out")
    assert table[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(table[:2, 1:], [[*one.columns, one.energy] for one in found[:2]], rtol=1e-9)
    write_deviations(tmp_path / "atoms.out", found[:2], steps=[0, 50], atomic=True)
    table = np.loadtxt(tmp_path / "atoms.out")
    assert table[:, 0].tolist() == [0, 50]
    np.testing.assert_allclose(table[:, 8:], [one.forces for one in found[:2]], rtol=1e-9)


def test_command(golden: Path, tmp_path: Path) -> None:
    write(tmp_path / "x.extxyz", _frames())
    models = [word for name in CHECKPOINTS for word in ("-m", str(golden / name))]
    argv = ["deviation", *models, "--structures", str(tmp_path / "x.extxyz"), "-o", str(tmp_path / "devi.out")]
    done = CliRunner().invoke(command, [*argv, "--atomic", "-f", "20", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["structures"] == 2
    table = np.loadtxt(tmp_path / "devi.out")
    assert table[:, 0].tolist() == [0, 20]
    np.testing.assert_allclose(table[:, 1:], PEER, rtol=0, atol=1e-8)  # positions have eight digits
    done = CliRunner().invoke(command, [*argv, "--relative", "0.5", "--relative_v", "0.02"])
    assert "2 structures, largest deviation of a force 0.0989" in done.output
    np.testing.assert_allclose(np.loadtxt(tmp_path / "devi.out")[:, 1:], np.array(PEER_RELATIVE)[:, :7], atol=1e-7)


def test_errors() -> None:
    one, other = _tiny("se_e2_a-ener", 1), _tiny("dpa3-dipole", 1)
    with pytest.raises(ModelError, match="a deviation needs two models or more, found 1"):
        model_deviation([one], _frames())
    with pytest.raises(ModelError, match=r"dpa3-dipole-1 predicts dipole: deviations are those of forces"):
        model_deviation([one, other], _frames())
    with pytest.raises(ModelError, match=r"only one of .* is a spin model"):
        model_deviation([one, _tiny("spin", 1)], _frames())
    with pytest.raises(ModelError, match=r"element 'Xe' is not in the model's type map"):
        model_deviation([one, one], [Atoms("Xe", [[0, 0, 0]])])
    with pytest.raises(DataError, match="has no types"):
        model_deviation([one, one], [{"positions": POSITIONS}])
