"""Order of the frames: without replacement, repeatable, resumable."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dpsim.errors import ConfigError
from dpsim.train.batches.sampler import Budget, Filling, Sampler, filling, in_order
from dpsim.train.batches.system_shares import system_probabilities
from dpsim.train.settings.data import SystemSampling, size_of


def test_every_frame_once_an_epoch_in_changing_order() -> None:
    sampler = Sampler([np.arange(10)], seed=3, frames=5)
    epochs = [sampler.next_batch() + sampler.next_batch() for _ in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_same_seed_same_batches_and_another_seed_others() -> None:
    def batches(seed: int) -> list[list[int]]:
        sampler = Sampler([np.arange(10)], seed=seed, frames=3)
        return [sampler.next_batch() for _ in range(9)]

    assert batches(1) == batches(1) != batches(2)


def test_cursor_continues() -> None:
    for pools in ([np.arange(7)], [np.arange(3), np.arange(3, 7)]):
        unbroken = Sampler(pools, seed=1, frames=2)
        expected = [unbroken.next_batch() for _ in range(12)]
        first = Sampler(pools, seed=1, frames=2)
        found = [first.next_batch() for _ in range(5)]
        second = Sampler(pools, seed=1, frames=2)
        second.cursor = first.cursor
        assert found + [second.next_batch() for _ in range(7)] == expected


def test_batches_by_atoms_take_the_fewest_frames() -> None:
    sizes = {0: 4, 1: 8, 2: 4, 3: 30}
    sampler = Sampler([np.arange(4)], seed=0, atoms=12, n_atoms=sizes.__getitem__)
    for _ in range(50):
        batch = sampler.next_batch()
        atoms = [sizes[i] for i in batch]
        assert sum(atoms) >= 12 > sum(atoms[:-1]) or len(batch) == 4


def test_batch_is_no_larger_than_the_data() -> None:
    sampler = Sampler([np.arange(3)], seed=0, frames=8)
    assert sorted(sampler.next_batch()) == [0, 1, 2]


def test_systems_are_seen_equally_often() -> None:
    sampler = Sampler([np.arange(2), np.arange(2, 100)], seed=0, frames=1)
    seen = Counter(sampler.next_batch()[0] < 2 for _ in range(2000))
    assert abs(seen[True] - 1000) < 120  # five standard deviations


def test_batches_in_order() -> None:
    sizes = {0: 4, 1: 8, 2: 4, 3: 30, 4: 1}
    size = sizes.__getitem__
    assert list(in_order(range(5), frames=2)) == [[0, 1], [2, 3], [4]]
    assert list(in_order(range(5), atoms=12, n_atoms=size)) == [[0, 1], [2, 3], [4]]
    assert list(in_order([3, 4], atoms=30, n_atoms=size)) == [[3], [4]]
    assert list(in_order(range(5), budget=Budget(12, size))) == [[0, 1], [2], [3], [4]]
    assert list(in_order([], frames=2)) == []


def test_batches_within_a_budget() -> None:
    """As many frames as fit; a frame that costs more than allowed is alone."""
    cost = {0: 4, 1: 8, 2: 4, 3: 30, 4: 1}.__getitem__
    sampler = Sampler([np.arange(5)], seed=0, budget=Budget(12, cost))
    drawn: list[int] = []
    for _ in range(60):
        batch = sampler.next_batch()
        assert sum(map(cost, batch)) <= 12 or batch == [3]
        drawn += batch
    rounds = [drawn[i : i + 5] for i in range(0, 50, 5)]
    assert all(sorted(part) == list(range(5)) for part in rounds), "a frame that did not fit is not lost"
    assert max(len(batch) for batch in in_order(drawn, budget=Budget(12, cost))) > 1


def test_cursor_continues_within_a_budget() -> None:
    def make() -> Sampler:
        cost = {0: 4, 1: 8, 2: 4, 3: 30, 4: 1}.__getitem__
        pools = [np.arange(2), np.arange(2, 5)]
        return Sampler(pools, seed=2, budget=Budget(12, cost), probabilities=[0.3, 0.7])

    unbroken, first, second = make(), make(), make()
    expected = [unbroken.next_batch() for _ in range(14)]
    found = [first.next_batch() for _ in range(6)]
    second.cursor = first.cursor
    assert found + [second.next_batch() for _ in range(8)] == expected


def test_pools_are_drawn_with_their_probabilities() -> None:
    sampler = Sampler([np.arange(2), np.arange(2, 100)], seed=0, frames=1, probabilities=[0.2, 0.8])
    seen = Counter(sampler.next_batch()[0] < 2 for _ in range(2000))
    assert abs(seen[True] - 400) < 90  # five standard deviations


def test_what_batch_sizes_mean() -> None:
    def full(value: int | str) -> Filling:
        return filling(size_of(value), len, repr)  # type: ignore[arg-type]

    assert full(4) == {"frames": 4}
    assert full("auto:32") == {"atoms": 32}
    assert full("max:64") == full("filter:64") == {"budget": Budget(64, len)}  # type: ignore[comparison-overlap]
    assert full("edges:5000")["budget"].cost is repr  # type: ignore[comparison-overlap]


NAMES = ("water/O64H128", "water/O2H4", "ice/O8H16", "gas/H2")
SIZES = (10, 30, 60, 100)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"blocks": {"0:3": 0.4, "3:4": 0.6}}, [0.04, 0.12, 0.24, 0.6]),
        ({"blocks": {"water/*": 2, "gas/*": 6}}, [0.0625, 0.1875, 0, 0.75]),
        ({"blocks": {"2:4": 1, "O2H4": 0}}, [0, 0, 0.375, 0.625]),
        ({"weights": [0.5, -1, -1, 0]}, [0.5, 0.5 / 3, 1 / 3, 0]),
        ({"weights": [0.1, 0.2, 0.3, 0.4]}, [0.1, 0.2, 0.3, 0.4]),
        ({"weights": [-1, 1, -1, -2]}, [0, 1, 0, 0]),
        ({"weights": [-1, -1, -1, -1]}, [0.05, 0.15, 0.3, 0.5]),
    ],
)
def test_probabilities_of_systems(sampling: dict[str, Any], expected: list[float]) -> None:
    found = system_probabilities(SystemSampling(**sampling), NAMES, SIZES)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("sampling", "sizes", "message"),
    [
        ({"blocks": {"0:5": 1}}, SIZES, r"'0:5' is no range of the 4 systems of the data"),
        ({"blocks": {"2:2": 1}}, SIZES, r"'2:2' is no range"),
        (
            {"blocks": {"0:2": 1, "ice/*": 1, "*/O2H4": 1}},
            SIZES,
            r"system 1 \(water/O2H4\) is in '0:2' and in '\*/O2H4'",
        ),
        ({"blocks": {"oil/*": 1}}, SIZES, r"'oil/\*' matches none of the systems \(water/O64H128, "),
        ({"blocks": {"0:1": 1, "1:2": 1}}, (0, 1, 1, 1), r"the systems of '0:1' have no frames"),
        ({"weights": [0.5, 0.5]}, SIZES, r"has 2 numbers, but the data hold 4 systems"),
        ({"weights": [0.5, -1, 0, 0]}, (5, 0, 1, 1), r"that share the rest \(negative numbers\) have no frames"),
        (
            {"weights": [0.5, 0.5, 0, 0]},
            (5, 0, 1, 1),
            r"system 1 \(water/O2H4\) has no frames, but is to be drawn from",
        ),
    ],
)
def test_probabilities_that_do_not_fit_the_data(sampling: dict[str, Any], sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        system_probabilities(SystemSampling(**sampling), NAMES, sizes)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({}, "either blocks or weights"),
        ({"blocks": {"0:1": 1}, "weights": [1]}, "either blocks or weights"),
        ({"blocks": {"0:1": 0}}, "at least one share must be above zero"),
        ({"weights": [0.5, 0.6]}, "weights sum to 1.1, expected 1"),
        ({"weights": [0.5, 0.6, -1]}, "weights sum to 1.1, expected at most 1"),
        ({"weights": [0.5, 0.2]}, "weights sum to 0.7, expected 1, or a negative number"),
    ],
)
def test_settings_that_contradict_themselves(sampling: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SystemSampling(**sampling)
