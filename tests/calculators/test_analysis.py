"""Analysis of trajectories against exact results, reference data and LAMMPS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dpsim.calculators.md.analysis import (
    block_average,
    compare_rdf,
    energy_drift,
    first_peak,
    msd,
    rdf,
    smallest_height,
)
from dpsim.errors import DataError


def water(shared: Path) -> list[Atoms]:
    frames = []
    for folder in sorted((shared / "data/water").glob("data_*")):
        names = (folder / "type_map.raw").read_text().split()
        symbols = [names[int(t)] for t in (folder / "type.raw").read_text().split()]
        for part in sorted(folder.glob("set.*")):
            cells, positions = np.load(part / "box.npy"), np.load(part / "coord.npy")
            frames += [
                Atoms(symbols, x.reshape(-1, 3).astype(float), cell=c.reshape(3, 3).astype(float), pbc=True)
                for c, x in zip(cells, positions, strict=True)
            ]
    return frames


def test_water_is_that_of_the_reference(shared: Path) -> None:
    reference = json.loads((shared / "data/water/rdf_of_labelled_frames.json").read_text())
    frames = water(shared)
    assert len(frames) == reference["frames"]
    found = rdf(frames, r_max=6.0, bins=120)
    assert np.allclose(found.r, reference["r_A"])
    for pair in (("O", "O"), ("H", "O"), ("H", "H")):
        # Four decimals are printed.
        assert np.allclose(found.g[pair], reference["".join(sorted(pair, reverse=pair == ("H", "O")))], atol=6e-5)
    peak = first_peak(found.r, found.g["O", "O"])
    assert peak is not None
    assert peak.r == pytest.approx(2.74, abs=0.03)


def test_first_peaks_of_the_classical_references(shared: Path) -> None:
    reference = json.loads((shared / "data/classical/md_reference.json").read_text())
    for name, distance in (("Cu_EAM_300K", 3.615 / 2**0.5), ("Si_SW_300K", 5.431 * 3**0.5 / 4)):
        peak = first_peak(np.array(reference[name]["r_A"]), np.array(reference[name]["g"]))
        assert peak is not None
        assert peak.r == pytest.approx(distance, abs=0.02)


def test_crystal_counts_its_shells() -> None:
    atoms = bulk("Cu", a=4.0, cubic=True) * (3, 3, 3)
    found = rdf([atoms], r_max=4.5, bins=90)
    shells = 4 / 3 * np.pi * np.diff(np.linspace(0, 4.5, 91) ** 3)
    counts = found.g["Cu", "Cu"] * shells * len(atoms) / atoms.get_volume()
    assert counts[found.r < 3.5].sum() == pytest.approx(12)
    assert counts[found.r > 3.5].sum() == pytest.approx(6)


def test_ideal_gas_in_a_skewed_cell_is_one() -> None:
    rng = np.random.default_rng(0)
    cell = np.array([[9.0, 0, 0], [4.0, 8.0, 0], [-3.0, 2.0, 10.0]])
    frames = [Atoms("H200O100", rng.random((300, 3)) @ cell * 5, cell=cell, pbc=True) for _ in range(40)]
    found = rdf(frames, bins=20)
    assert found.r[-1] < 0.5 * smallest_height(cell)
    assert found.g["H", "O"][3:].mean() == pytest.approx(1.0, abs=0.01)
    assert found.g["H", "H"][3:].mean() == pytest.approx(1 - 1 / 200, abs=0.01)


def test_unwrapped_positions_and_rotation_change_nothing() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    moved = atoms.copy()
    moved.positions += np.random.default_rng(0).integers(-3, 4, (len(atoms), 3)) @ np.array(atoms.cell)
    moved.rotate(20, (1, 1, 0), rotate_cell=True)
    for pair, g in rdf([atoms], r_max=5).g.items():
        # A distance on the border of two bins may fall to either side.
        assert np.abs(np.cumsum(g - rdf([moved], r_max=5).g[pair])).max() < 0.2


def test_images_are_counted_where_asked_for() -> None:
    atoms = bulk("Cu", a=4.0, cubic=True)
    with pytest.raises(DataError, match="passes half the smallest height"):
        rdf([atoms], r_max=4.5, bins=90)
    large = rdf([atoms * (3, 3, 3)], r_max=4.5, bins=90)
    assert np.allclose(rdf([atoms], r_max=4.5, bins=90, images=True).g["Cu", "Cu"], large.g["Cu", "Cu"])


@pytest.mark.parametrize(
    ("frames", "pairs", "message"),
    [
        ([], None, "at least one frame"),
        ([Atoms("H2", [[0, 0, 0], [1, 0, 0]])], None, "needs a cell periodic"),
        ([bulk("Cu", cubic=True)], [("Cu", "O")], "pair Cu-O: no O in the frames, which hold Cu"),
    ],
)
def test_what_rdf_refuses(frames: list[Atoms], pairs: list[tuple[str, str]] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rdf(frames, pairs, r_max=1.0)


def test_comparison_of_two_rdfs() -> None:
    r = np.linspace(0.05, 6, 120)
    g = 1 + 2 * np.exp(-((r - 2.7) ** 2) / 0.02)
    assert compare_rdf(r, g, g).overlap == 1.0
    assert compare_rdf(r, g, np.zeros_like(g)).overlap == pytest.approx(0.0)
    shifted = compare_rdf(r, g, 1 + 2 * np.exp(-((r - 2.8) ** 2) / 0.02))
    assert 0.9 < shifted.overlap < 1.0
    assert shifted.first_peak is not None
    assert shifted.reference_peak is not None
    assert shifted.reference_peak.r - shifted.first_peak.r == pytest.approx(0.1, abs=0.005)
    assert first_peak(r, np.full_like(r, 0.5)) is None
    with pytest.raises(DataError, match="on the same bins"):
        compare_rdf(r, g, g[1:])


def test_msd_is_that_of_the_plain_double_loop() -> None:
    positions = np.cumsum(np.random.default_rng(0).normal(size=(30, 5, 3)), axis=0)
    centred = positions - positions.mean(axis=1, keepdims=True)
    expected = [((centred[lag:] - centred[: 30 - lag]) ** 2).sum(-1).mean() for lag in range(30)]
    found = msd(positions, ["O"] * 5, 0.5)
    assert np.allclose(found.values["O"], expected)
    assert found.time[3] == 1.5


def test_random_walk_has_its_diffusion_coefficient() -> None:
    steps = np.random.default_rng(0).normal(size=(400, 600, 3)) * 0.1
    found = msd(np.cumsum(steps, axis=0), ["O", "H", "H"] * 200, 0.01, species=["H"])
    value, error = found.diffusion["H"]
    assert value == pytest.approx(0.1**2 / 2 / 0.01, rel=0.05)  # <dx²> = 2 D dt
    assert 0 < error < 0.1 * value
    assert 0 < found.block_errors["H"] < 0.1 * value
    assert np.isnan(msd(np.cumsum(steps[:10], axis=0), ["O"] * 600, 0.01).block_errors["O"])
    assert list(found.values) == ["H"]


def test_flight_at_constant_speed_and_drift() -> None:
    velocity = np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    positions = np.arange(10)[:, None, None] * velocity + np.arange(10)[:, None, None] * 7.0
    assert np.allclose(msd(positions, ["H", "H"], 1.0).values["H"], np.arange(10) ** 2)


def test_what_only_vibrates_does_not_diffuse() -> None:
    """Light atoms walk through heavy ones; the lattice that holds the centre of mass is no reason to correct much."""
    rng, pairs = np.random.default_rng(0), 32
    walk = np.cumsum(rng.normal(scale=0.3, size=(200, pairs, 3)), axis=0)
    positions = np.concatenate([walk, rng.normal(scale=0.05, size=(200, pairs, 3))], axis=1)
    symbols, masses = ["H"] * pairs + ["Pd"] * pairs, np.array([1.008] * pairs + [106.42] * pairs)
    found = msd(positions, symbols, 0.01)
    assert abs(found.diffusion["Pd"][0]) < 1e-3 * found.diffusion["H"][0]
    assert found.values["H"][50] == pytest.approx(msd(walk, ["H"] * pairs, 0.01).values["H"][50], rel=0.1)
    np.testing.assert_allclose(found.values["H"], msd(positions, symbols, 0.01, masses=masses).values["H"])
    equal = msd(positions, symbols, 0.01, masses=np.ones(2 * pairs))
    assert equal.diffusion["Pd"][0] > 1e-3 * found.diffusion["H"][0]


def test_what_msd_refuses() -> None:
    with pytest.raises(DataError, match="at least 4 frames, found 2"):
        msd(np.zeros((2, 1, 3)), ["H"], 1.0)
    with pytest.raises(DataError, match="no O in the frames"):
        msd(np.zeros((9, 1, 3)), ["H"], 1.0, species=["O"])


def test_energy_drift_finds_slope_and_fluctuation() -> None:
    time = np.linspace(0, 10, 2001)
    energy = -400 + 0.02 * time + 0.005 * np.sin(80 * time)
    drift = energy_drift(time, energy, 100)
    assert drift.slope == pytest.approx(0.2, rel=1e-2)
    assert drift.slope_per_ns == pytest.approx(200, rel=1e-2)
    assert drift.error_per_ns == pytest.approx(1000 * drift.error)
    assert drift.fluctuation == pytest.approx(0.05 / 2**0.5, rel=1e-2)
    assert drift.intercept == pytest.approx(-400, abs=1e-3)
    with pytest.raises(DataError, match="at least 3 points, found 2"):
        energy_drift(time[:2], energy[:2], 100)


def test_block_average_sees_correlation() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(size=4096)
    assert block_average(white).error == pytest.approx(1 / 64, rel=0.5)
    correlated = np.repeat(rng.normal(size=64), 64)
    assert block_average(correlated).error == pytest.approx(1 / 8, rel=0.5)
    assert block_average(np.array([2.0])) == (2.0, 0.0, 0.0)
    with pytest.raises(DataError, match="at least one value"):
        block_average(np.array([]))
