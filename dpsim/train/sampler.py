"""Which frames make the next batch: shuffled, without replacement, and repeatable from a few integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Cursor(NamedTuple):
    """Where a sampler stands."""

    draws: int
    """Frames drawn so far."""
    taken: tuple[int, ...]
    """Frames drawn so far from each pool."""


class Sampler:
    """Endless batches of frame indices.

    Each pool is gone through in a random order, then again in another. With several pools, each draw first
    chooses one, all equally likely. Everything follows from the seed and the cursor.

    Parameters
    ----------
    pools
        Frame indices, one array a pool.
    frames
        Frames in a batch; no more than there are.
    atoms
        Instead of `frames`: a batch is full as soon as it has this many atoms.
    n_atoms
        Number of atoms of a frame.
    """

    def __init__(
        self,
        pools: Sequence[np.ndarray],
        seed: int,
        *,
        frames: int | None = None,
        atoms: int | None = None,
        n_atoms: Callable[[int], int] | None = None,
    ) -> None:
        self.pools = list(pools)
        self.seed = seed
        self.n_frames = sum(len(pool) for pool in pools)
        self.frames = min(frames or self.n_frames, self.n_frames)
        self.atoms, self.n_atoms = atoms, n_atoms
        self.cursor = Cursor(0, (0,) * len(self.pools))
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __iter__(self) -> Iterator[tuple[list[int], Cursor]]:
        """Batches, each with the cursor behind it."""
        while True:
            yield self.next_batch(), self.cursor

    def next_batch(self) -> list[int]:
        """Frame indices of the next batch; moves the cursor."""
        batch: list[int] = []
        atoms = 0
        while not self._full(batch, atoms):
            batch.append(self._draw())
            atoms += self.n_atoms(batch[-1]) if self.n_atoms else 0
        return batch

    def _full(self, batch: list[int], atoms: int) -> bool:
        if len(batch) >= self.frames:
            return True
        return bool(batch) and self.atoms is not None and atoms >= self.atoms

    def _draw(self) -> int:
        draws, taken = self.cursor
        pool = 0
        if len(self.pools) > 1:
            pool = int(np.random.default_rng([self.seed, 1, draws]).integers(len(self.pools)))
        round_, place = divmod(taken[pool], len(self.pools[pool]))
        self.cursor = Cursor(draws + 1, (*taken[:pool], taken[pool] + 1, *taken[pool + 1 :]))
        return int(self._order(pool, round_)[place])

    def _order(self, pool: int, round_: int) -> np.ndarray:
        kept = self._orders.get(pool)
        if kept is None or kept[0] != round_:
            order = np.random.default_rng([self.seed, 2, pool, round_]).permutation(self.pools[pool])
            kept = self._orders[pool] = (round_, order)
        return kept[1]


def in_order(
    indices: Sequence[int], *, frames: int | None = None, atoms: int | None = None, n_atoms: Callable[[int], int]
) -> list[list[int]]:
    """Cut frames into batches, in order, as full as those of a `Sampler` with the same settings."""
    batches: list[list[int]] = [[]]
    total = 0
    for i in indices:
        if batches[-1] and (len(batches[-1]) == frames or (atoms is not None and total >= atoms)):
            batches.append([])
            total = 0
        batches[-1].append(i)
        total += n_atoms(i)
    return batches
