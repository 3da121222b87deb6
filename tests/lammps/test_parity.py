"""LAMMPS gives what Python gives: elements, units, precision, hybrid styles, runs that move atoms between ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lammps_runs import System, compare, grid, head, run, single_point, symbols

pytestmark = pytest.mark.lammps

TOLERANCE = {"float64": 1e-10, "float32": 2e-5}  # relative to the largest value; rounding only
RANKS = (1, 2, 4)


def _box(n: int, side: float, seed: int, boundary: str = "p p p") -> System:
    return System(grid(n, (side,) * 3, seed), symbols(n, seed), np.eye(3) * side, boundary)


def _triclinic() -> System:
    cell = np.array([[8.5, 0, 0], [2.6, 8.0, 0], [-1.9, 3.1, 9.0]])
    x = grid(48, (1, 1, 1), 4, jitter=0.0) + np.random.default_rng(4).uniform(-0.02, 0.02, (48, 3))
    return System(x @ cell, symbols(48, 4), cell)


def predict(potential, system: System):
    """Python's answer; open directions see no images."""
    return potential.evaluate(system.positions, system.symbols, system.cell, periodic=system.periodic)


def test_atom_virial_does_not_depend_on_ranks(model64: Path, tmp_path: Path) -> None:
    system = _triclinic()
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H")))
    deck += f"pair_style dpsim {model64}\npair_coeff * * O H\n"
    one, four = (single_point(tmp_path, deck, ranks) for ranks in (1, 4))
    np.testing.assert_allclose(four.stress, one.stress, rtol=0, atol=1e-12)
    np.testing.assert_allclose(four.centroid, one.centroid, rtol=0, atol=1e-12)
    assert np.abs(one.centroid[:, 3] - one.centroid[:, 6]).max() > 1e-3  # not symmetric atom by atom


@pytest.mark.parametrize("ranks", [1, 2])
def test_order_of_elements_and_an_unused_type(ranks: int, model64: Path, eager, tmp_path: Path) -> None:
    system = _box(40, 8.0, 11)
    deck = head(system, system.write(tmp_path / "s.data", ("H", "Ar", "O")))
    deck += f"pair_style dpsim {model64} device cpu mpi host\npair_coeff * * H O O\n"
    compare(single_point(tmp_path, deck, ranks), predict(eager, system), TOLERANCE["float64"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_float32(ranks: int, model32: Path, eager, tmp_path: Path) -> None:
    system = _box(64, 9.0, 1)
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H")))
    deck += f"pair_style dpsim {model32}\npair_coeff * * O H\n"
    compare(single_point(tmp_path, deck, ranks), predict(eager, system), TOLERANCE["float32"])


def test_units_real(model64: Path, eager, tmp_path: Path) -> None:
    """kcal/mol by LAMMPS's own factor between metal and real units."""
    system = _box(30, 8.0, 12)
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H")), units="real")
    deck += f"pair_style dpsim {model64}\npair_coeff * * O H\n"
    found, expected = single_point(tmp_path, deck, 1), predict(eager, system)
    np.testing.assert_allclose(found.energy, 23.060549 * expected.energy, rtol=1e-12)
    np.testing.assert_allclose(found.forces, 23.060549 * expected.forces, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("style", ["hybrid/overlay", "hybrid"])
def test_hybrid_with_unmapped_atoms(style: str, ranks: int, model64: Path, eager, tmp_path: Path) -> None:
    """Atoms mapped to NULL are no neighbours of the model's atoms and carry no energy of it."""
    n = 60
    system = System(grid(n, (9.5, 9.5, 9.5), 13), symbols(n, 13, ("O", "H", "H", "Ar")), np.eye(3) * 9.5)
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H", "Ar")))
    deck += f"pair_style {style} dpsim {model64} lj/cut 4.5\npair_coeff * * dpsim O H NULL\n"
    deck += "".join(f"pair_coeff {t} 3 lj/cut 0.01 2.4\n" for t in (1, 2, 3))
    found = single_point(tmp_path, deck, ranks)
    argon = np.array([s == "Ar" for s in system.symbols])
    kept = System(system.positions[~argon], tuple(s for s in system.symbols if s != "Ar"), system.cell)
    expected = predict(eager, kept)
    energy, forces = _lennard_jones(system, argon)
    forces[~argon] += expected.forces
    np.testing.assert_allclose(found.energy, expected.energy + energy, rtol=1e-10)
    np.testing.assert_allclose(found.forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())


def _lennard_jones(system: System, argon: np.ndarray) -> tuple[float, np.ndarray]:
    """All pairs with at least one argon; cutoff below half the box, so the nearest image is the only one."""
    d = system.positions[None] - system.positions[:, None]
    d -= np.round(d / 9.5) * 9.5
    r2 = (d**2).sum(-1)
    pairs = (r2 < 4.5**2) & (r2 > 0) & (argon[:, None] | argon[None])
    s6 = np.where(pairs, 2.4**6 / np.where(pairs, r2, 1.0) ** 3, 0.0)
    energy = 0.5 * (4 * 0.01 * (s6**2 - s6)).sum()
    slope = 24 * 0.01 * (2 * s6**2 - s6) / np.where(pairs, r2, 1.0)
    return float(energy), -(slope[..., None] * d).sum(1)


@pytest.mark.parametrize("ranks", [1, 2])
def test_overlay_of_two_instances(ranks: int, model64: Path, eager, tmp_path: Path) -> None:
    """Each instance has its own model and its own halo plan; hybrid/scaled weighs them."""
    system = _box(40, 8.5, 14)
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H")))
    deck += f"pair_style hybrid/scaled 0.25 dpsim {model64} 0.75 dpsim {model64}\n"
    deck += "pair_coeff * * dpsim 1 O H\npair_coeff * * dpsim 2 H O\n"
    found = single_point(tmp_path, deck, ranks)
    swapped = System(system.positions, tuple({"O": "H", "H": "O"}[s] for s in system.symbols), system.cell)
    one, two = predict(eager, system), predict(eager, swapped)
    np.testing.assert_allclose(found.energy, 0.25 * one.energy + 0.75 * two.energy, rtol=1e-10)
    forces = 0.25 * one.forces + 0.75 * two.forces
    np.testing.assert_allclose(found.forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())


def test_nothing_stays_in_the_temporary_folder(model64: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after a good run nor after an error that ends the program."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    system = _box(10, 8.0, 15)
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H")))
    deck += f"pair_style dpsim {model64}\npair_coeff * * O H\nrun 0\n"
    run(tmp_path, deck, 2)
    with pytest.raises(AssertionError, match="not_a_command"):
        run(tmp_path, deck + "not_a_command\n", 2)
    assert [p.name for p in scratch.iterdir() if p.name.startswith(("dpsim", "aoti"))] == []
