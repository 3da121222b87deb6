"""Selection of frames: limits against numbers computed by hand, farthest points against trying all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given
from hypothesis import strategies as st

from dpsim.calculators.ase_frame import as_frame
from dpsim.calculators.selection import (
    CLASSES,
    classify,
    distinct,
    farthest_points,
    is_too_close,
    scaled,
    select,
    trust_levels,
)
from dpsim.calculators.selection_config import AdaptiveTrust, FixedTrust, SelectConfig
from dpsim.errors import DataError

DEVIATIONS = np.array([0.05, 0.10, 0.20, 0.49, 0.50, 0.80, np.nan, np.inf])


def water(stretch: float = 1.0) -> Atoms:
    return Atoms("OH2", [[0, 0, 0], [0.96 * stretch, 0, 0], [-0.24, 0.93, 0]])


def config(**options: Any) -> SelectConfig:
    return SelectConfig.model_validate(options)


def names(classes: np.ndarray) -> list[str]:
    return [CLASSES[number][0] for number in classes]


def test_limits_by_value() -> None:
    trust = FixedTrust(low=0.1, high=0.5)
    assert trust_levels(trust, DEVIATIONS, None) == (0.1, 0.5)
    # accurate up to and with low, failed from high on, and where there is no number
    assert names(classify(DEVIATIONS, 0.1, 0.5)) == ["a", "a", "c", "c", "f", "f", "f", "f"]


def test_limits_by_quantile() -> None:
    # By hand: of 0.0, 0.1, ... 1.0 the 0.75 quantile lies at place 7.5 of 10.
    measured = np.arange(11) / 10
    trust = AdaptiveTrust(quantile=0.75)
    low, high = trust_levels(trust, measured, None)
    assert (low, high) == (pytest.approx(0.75), np.inf)
    assert names(classify(measured, low, high)) == ["a"] * 8 + ["c"] * 3
    # what the models have learnt sets the limit, whatever the frames are
    low, _ = trust_levels(trust, measured, np.array([0.2, 0.4, np.nan]))
    assert low == pytest.approx(0.35)
    # a ceiling limits both sides
    low, high = trust_levels(AdaptiveTrust(quantile=0.75, ceiling=0.5), measured, None)
    assert (low, high) == (0.5, 0.5)
    assert names(classify(measured, low, high)) == ["a"] * 6 + ["f"] * 5


def test_shares_counts_and_histogram() -> None:
    found = select(config(trust={"mode": "fixed", "low": 0.1, "high": 0.5}), [water()] * 8, DEVIATIONS)
    metrics = found.metrics()
    assert (metrics["accurate"], metrics["candidate"], metrics["failed"]) == (0.25, 0.25, 0.5)
    assert metrics["counts"] == {"accurate": 2, "candidate": 2, "failed": 4}
    assert metrics["dropped"] == {"unphysical": 2}  # what is no number
    assert found.chosen.tolist() == [2, 3]
    edges, rows = found.histogram()
    assert (edges[0], edges[-1], len(edges)) == (0.0, 0.8, 41)
    assert [int(row.sum()) for row in rows.values()] == [2, 2, 2]
    assert metrics["deviation"]["max"] == 0.8


def test_unphysical_frames_have_failed() -> None:
    broken = water()
    broken.positions[0, 0] = np.nan
    frames = [water(), water(0.3), broken, water(), water()]
    forces = [np.zeros((3, 3)), None, None, np.full((3, 3), np.inf), 200.0 * np.eye(3)]
    fixed = {"mode": "fixed", "low": 0.1, "high": 0.5}
    deviations = np.full(5, 0.2)
    found = select(config(trust=fixed), frames, deviations, forces=forces)
    assert found.flaws["unphysical"].tolist() == [1, 2, 3]
    assert found.chosen.tolist() == [0, 4]
    assert found.metrics()["failed"] == 0.6
    limited = config(trust=fixed, limits={"max_force": "100 eV/angstrom"})
    known = [force if force is not None else np.zeros((3, 3)) for force in forces]
    assert select(limited, frames, deviations, forces=known).chosen.tolist() == [0]
    with pytest.raises(DataError, match="max_force needs labelled frames"):
        select(limited, frames, deviations, forces=[None] * 5)
    everything = select(config(trust=fixed, drop=()), frames, deviations, forces=forces)
    assert everything.chosen.tolist() == [0, 1, 2, 3, 4]


def test_atoms_too_close_across_a_boundary() -> None:
    pair = Atoms("Cu2", [[0.1, 0, 0], [9.9, 0, 0]], cell=[10, 10, 10])
    assert not is_too_close(pair, 0.5)
    pair.pbc = True
    assert is_too_close(pair, 0.5)
    assert not is_too_close(pair, 0.0)
    assert not is_too_close(Atoms(), 0.5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4), st.integers(1, 9))
def test_farthest_points_against_trying_all(seed: int, rows: int, columns: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 4, (rows, columns)).astype(float)  # with equal rows
    chosen = [0]
    while len(chosen) < min(count, rows):
        left = [row for row in range(rows) if row not in chosen]
        gaps = [min(np.linalg.norm(features[row] - features[one]) for one in chosen) for row in left]
        chosen.append(left[int(np.argmax(gaps))])
    assert farthest_points(features, count, 0).tolist() == chosen


def test_farthest_points_spread_better_than_any_other_order_begins() -> None:
    """On a line: first the ends, then the middle."""
    line = np.arange(9.0)[:, None]
    assert farthest_points(line, 5, 0).tolist() == [0, 8, 4, 2, 6]


def test_of_near_duplicates_the_larger_deviation_stays() -> None:
    frames = [water(length) for length in (1.0, 1.01, 1.2, 1.25, 1.28)]
    deviations = np.array([0.1, 0.2, 0.5, 0.4, 0.3])
    assert distinct(frames, 0.06, deviations).tolist() == [1, 2, 4]
    assert distinct(frames, 0.06, deviations, known=[water(1.29)]).tolist() == [1, 2]
    assert distinct(frames, 0.06, deviations, known=[Atoms("Cu")]).tolist() == [1, 2, 4]


def test_a_slab_is_compared_without_its_vacuum() -> None:
    slab = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], cell=[2.5, 2.5, 0], pbc=[True, True, False])
    tall, bent = slab.copy(), slab.copy()
    tall.set_cell([2.5, 2.5, 30])
    bent.positions[1, 2] += 0.2
    assert as_frame(slab).cell is not None
    assert distinct([slab, tall, bent], 0.05, np.zeros(3)).tolist() == [0, 2]


def test_scaled_features() -> None:
    features = np.random.default_rng(1).normal([0, 5, 3], [1, 100, 0], (200, 3))
    found = scaled(features)
    assert found.shape == (200, 2)  # what does not vary says nothing
    assert np.allclose(found.std(axis=0), np.sqrt(0.5))
    assert np.isclose((found**2).sum(axis=1).mean(), 1.0)
    assert scaled(np.ones((4, 3))).tolist() == [[0.0]] * 4


def _coordinates(frames: Any) -> np.ndarray:
    return np.array([atoms.positions[1, :1] for atoms in frames])


def test_as_many_as_are_wanted_and_different() -> None:
    frames = [water(1 + 0.01 * k) for k in range(11)]
    deviations = np.linspace(0.2, 0.4, 11)
    fixed = {"mode": "fixed", "low": 0.1, "high": 0.5}
    fps = config(trust=fixed, diversify={"method": "fps", "max": 3})
    assert select(fps, frames, deviations, features=_coordinates).chosen.tolist() == [0, 5, 10]
    largest = config(trust=fixed, diversify={"method": "deviation", "max": 3})
    assert select(largest, frames, deviations).chosen.tolist() == [8, 9, 10]
    drawn = config(trust=fixed, diversify={"method": "random", "max": 3})
    first, again = (select(drawn, frames, deviations, seed=4).chosen.tolist() for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
    assert select(drawn, frames, deviations, seed=5).chosen.tolist() != first
    with pytest.raises(DataError, match="need a model with a descriptor"):
        select(fps, frames, deviations)
    twice = config(trust=fixed, drop=["near_duplicate"], limits={"duplicate_distance": "0.001 angstrom"})
    found = select(twice, [*frames, *frames], np.concatenate([deviations, deviations]))
    assert found.chosen.tolist() == list(range(11))
    assert len(found.flaws["near_duplicate"]) == 11
    none = select(fps, frames, np.zeros(11), features=_coordinates)
    assert none.chosen.tolist() == []
    assert none.metrics()["accurate"] == 1.0


def test_no_frames() -> None:
    with pytest.raises(DataError, match="there are no frames to select from"):
        select(config(), [], np.zeros(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust": {"mode": "fixed", "low": 0.5, "high": 0.1}}, "must be smaller than high"),
        ({"trust": {"mode": "fixed", "low": 0.5}}, "high"),
        ({"trust": {"mode": "adaptive", "quantile": 1.0}}, "less than 1"),
        ({"trust": {"mode": "adaptive", "low": 0.1}}, "Extra inputs"),
        ({"trust": {"mode": "sharp"}}, "adaptive"),
        ({"diversify": {"method": "fps"}}, "max"),
        ({"diversify": {"method": "fps", "max": 0}}, "greater than or equal to 1"),
        ({"drop": ["duplicate"]}, "unphysical"),
        ({"drop": [], "limits": {"contact": 0.4}}, "limits.contact has no effect without 'unphysical' in drop"),
        ({"limits": {"duplicate_distance": 0.1}}, "has no effect without 'near_duplicate'"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        config(**options)
    assert message in str(raised.value)
