"""Order of the frames: without replacement, repeatable, resumable."""

from __future__ import annotations

from collections import Counter

import numpy as np

from dpsim.train.sampler import Sampler, in_order


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
    assert in_order(range(5), frames=2, n_atoms=sizes.__getitem__) == [[0, 1], [2, 3], [4]]
    assert in_order(range(5), atoms=12, n_atoms=sizes.__getitem__) == [[0, 1], [2, 3], [4]]
    assert in_order([3, 4], atoms=30, n_atoms=sizes.__getitem__) == [[3], [4]]
