"""Near duplicates: found whatever the order of the atoms and the orientation, and nothing else."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.near import NearDuplicates, find_near_duplicates
from dpsim.data import Frame


def liquid(seed: int, count: int = 24, length: float = 8.0) -> Frame:
    """Return atoms of two elements, none very near to another."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:count]
    positions = (grid + 0.5) * length / 3 + rng.uniform(-0.6, 0.6, (count, 3))
    return Frame(positions, np.arange(count) % 2, np.eye(3) * length)


def moved(frame: Frame, seed: int, size: float = 0.0) -> Frame:
    """Return the frame turned, shifted, with its atoms in another order, each displaced by less than `size`."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(frame.n_atoms)
    step = rng.normal(size=(frame.n_atoms, 3))
    step *= size * rng.uniform(0, 1, (frame.n_atoms, 1)) / np.linalg.norm(step, axis=1, keepdims=True)
    positions = ((frame.positions + step) @ turn.T + rng.normal(size=3))[order]
    labels = {k: v[order] if k == "spin" else v for k, v in frame.labels.items()}
    return Frame(positions, frame.types[order], None if frame.cell is None else frame.cell @ turn.T, labels)


def found(frames: list[Frame], **options: float) -> dict[int, int]:
    return find_near_duplicates(frames, range(len(frames)), NearDuplicates(**options))


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=25, deadline=None)
def test_displacements_below_half_the_tolerance_are_always_found(seed: int, periodic: bool) -> None:
    one = liquid(seed)
    one = one if periodic else dataclasses.replace(one, cell=None)
    frames = [one, liquid(seed + 1), moved(one, seed, 0.0249), moved(one, seed + 1)]
    frames[1] = frames[1] if periodic else dataclasses.replace(frames[1], cell=None)
    assert found(frames) == {2: 0, 3: 0}


def test_one_atom_that_moves_farther_makes_another_frame() -> None:
    one = liquid(3)
    positions = one.positions.copy()
    positions[5] += [0.3, 0, 0]
    assert found([one, dataclasses.replace(one, positions=positions)]) == {}
    assert found([one, dataclasses.replace(one, positions=positions)], tol=0.5) == {1: 0}


def test_what_is_exchanged_between_elements_is_another_frame() -> None:
    one = liquid(4)
    other = dataclasses.replace(one, types=1 - one.types)
    assert found([one, other, dataclasses.replace(one, cell=None)]) == {}


def test_energies_that_differ_make_other_frames() -> None:
    one = liquid(5)
    with_energy = [dataclasses.replace(one, labels={"energy": np.array(e)}) for e in (0.0, 24 * 0.004, 24 * 0.006)]
    assert found(with_energy) == {1: 0}
    assert found(with_energy, energy=0.01) == {1: 0, 2: 0}
    assert found([with_energy[0], one, with_energy[2]]) == {1: 0}  # without an energy only the structure counts


def test_inputs_beside_the_structure_make_other_frames() -> None:
    one = liquid(6)
    spins = np.random.default_rng(0).normal(size=(24, 3))
    hot, cold = (dataclasses.replace(one, labels={"fparam": np.array([t])}) for t in (300.0, 600.0))
    up = dataclasses.replace(one, labels={"spin": spins})
    down = dataclasses.replace(one, labels={"spin": -spins})
    order = np.random.default_rng(1).permutation(24)
    again = Frame(one.positions[order], one.types[order], one.cell, {"spin": spins[order]})
    assert found([one, hot, cold, up, down, again]) == {5: 3}


def test_dilute_boxes_are_compared_beyond_5_angstrom() -> None:
    far = [Frame(np.array([[0, 0, 0], [x, 0, 0]]), np.zeros(2, int), np.eye(3) * 16.0) for x in (6.0, 7.0, 6.02)]
    assert found(far) == {2: 0}
    assert found([dataclasses.replace(frame, cell=None) for frame in far]) == {2: 0}


def test_vacuum_and_single_atoms() -> None:
    slab = liquid(7)
    thick = dataclasses.replace(slab, cell=np.diag([8.0, 8.0, 20.0]))
    thin = dataclasses.replace(slab, cell=np.diag([8.0, 8.0, 14.0]))
    assert found([thick, thin]) == {}
    atom = Frame(np.zeros((1, 3)), np.zeros(1, int), None)
    assert found([atom, dataclasses.replace(atom, positions=np.ones((1, 3)))]) == {1: 0}
    cells = [Frame(np.zeros((1, 3)), np.zeros(1, int), np.eye(3) * a) for a in (2.5, 2.51, 2.6)]
    assert found(cells) == {1: 0}


def test_the_first_stays_and_fixed_ones_always_do() -> None:
    one = liquid(8)
    frames = [moved(one, k, 0.002) for k in range(4)]
    assert find_near_duplicates(frames, [2, 0, 1, 3]) == {0: 2, 1: 2, 3: 2}
    assert find_near_duplicates(frames, [0, 1], fixed=[2, 3]) == {0: 2, 1: 2}


def test_placeholders_do_not_count() -> None:
    one = liquid(9)
    padded = Frame(np.vstack([one.positions, np.zeros((2, 3))]), np.append(one.types, [-1, -1]), one.cell)
    assert found([one, padded]) == {1: 0}


def test_many_frames_take_no_longer_than_their_neighbours() -> None:
    """Comparisons of all pairs (4.5 million) would take minutes; a hundred times more frames, days."""
    base = [liquid(k, 8, 6.0) for k in range(1500)]
    frames = base + [moved(base[k], k, 0.01) for k in range(1500)]
    read = []
    started = time.monotonic()
    counts = type("Counted", (), {"__getitem__": lambda self, i: read.append(i) or frames[i]})()
    assert find_near_duplicates(counts, range(3000)) == {1500 + k: k for k in range(1500)}
    assert len(read) < 2.1 * len(frames)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("options", [{"tol": 0.0}, {"tol": -1.0}, {"energy": 0.0}])
def test_tolerances_are_positive(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        NearDuplicates(**options)
