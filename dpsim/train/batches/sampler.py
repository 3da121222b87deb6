"""Which frames make the next batch: shuffled, without replacement, and repeatable from a few integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from dpsim.train.settings.data import Size


class Cursor(NamedTuple):
    """Where a sampler stands."""

    draws: int
    """Frames drawn so far."""
    taken: tuple[int, ...]
    """Frames drawn so far from each pool."""


class Budget(NamedTuple):
    """What a batch may cost; a batch of one frame may cost more."""

    limit: int
    cost: Callable[[int], int]
    """Of a frame, for example its number of edges."""


class Filling(TypedDict, total=False):
    """When a batch is full, in the arguments of `Sampler` and `in_order`."""

    frames: int
    atoms: int
    budget: Budget


def filling(size: Size, n_atoms: Callable[[int], int], n_edges: Callable[[int], int]) -> Filling:
    """What a batch size means.

    Parameters
    ----------
    n_atoms, n_edges
        Of a frame.
    """
    if size.rule in ("frames", "systems"):
        return {"frames": size.number}
    if size.rule == "auto":
        return {"atoms": size.number}
    return {"budget": Budget(size.number, n_edges if size.rule == "edges" else n_atoms)}


class Sampler:
    """Endless batches of frame indices.

    Each pool is gone through in a random order, then again in another. With several pools, each draw first
    chooses one. Everything follows from the seed and the cursor.

    Parameters
    ----------
    pools
        Frame indices, one array a pool.
    frames
        Frames in a batch; no more than there are.
    atoms
        Instead of `frames`: a batch is full as soon as it has this many atoms.
    budget
        Instead of `frames`: a batch is full before it costs more.
    n_atoms
        Number of atoms of a frame; needed with `atoms`.
    probabilities
        Of each pool to be chosen; None: all the same.
    sizes
        Instead of `frames`, the number for each pool; all frames of a batch are then of one pool.
    """

    def __init__(
        self,
        pools: Sequence[np.ndarray],
        seed: int,
        *,
        frames: int | None = None,
        atoms: int | None = None,
        budget: Budget | None = None,
        n_atoms: Callable[[int], int] | None = None,
        probabilities: Sequence[float] | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        self.pools = list(pools)
        self.seed = seed
        self.n_frames = sum(len(pool) for pool in pools)
        self.frames = min(frames or self.n_frames, self.n_frames)
        self.atoms, self.budget, self.n_atoms = atoms, budget, n_atoms
        self.sizes = None if sizes is None else [min(n, len(pool)) for n, pool in zip(sizes, pools, strict=True)]
        self.cursor = Cursor(0, (0,) * len(self.pools))
        self._steps = None if probabilities is None else np.cumsum(probabilities) / np.sum(probabilities)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __iter__(self) -> Iterator[tuple[list[int], Cursor]]:
        """Batches, each with the cursor behind it."""
        while True:
            yield self.next_batch(), self.cursor

    def next_batch(self) -> list[int]:
        """Frame indices of the next batch; moves the cursor."""
        if self.sizes is not None:
            pool = self._pool()
            return [self._draw(pool) for _ in range(self.sizes[pool])]
        batch: list[int] = []
        atoms = cost = 0
        while not self._full(batch, atoms):
            before, drawn = self.cursor, self._draw(self._pool())
            if self.budget is not None:
                cost += self.budget.cost(drawn)
                if batch and cost > self.budget.limit:
                    self.cursor = before  # it begins the next batch
                    break
            batch.append(drawn)
            atoms += self.n_atoms(drawn) if self.n_atoms else 0
        return batch

    def _full(self, batch: list[int], atoms: int) -> bool:
        if len(batch) >= self.frames:
            return True
        return bool(batch) and self.atoms is not None and atoms >= self.atoms

    def _pool(self) -> int:
        return self._choose(self.cursor.draws) if len(self.pools) > 1 else 0

    def _draw(self, pool: int) -> int:
        draws, taken = self.cursor
        round_, place = divmod(taken[pool], len(self.pools[pool]))
        self.cursor = Cursor(draws + 1, (*taken[:pool], taken[pool] + 1, *taken[pool + 1 :]))
        return int(self._order(pool, round_)[place])

    def _choose(self, draws: int) -> int:
        random = np.random.default_rng([self.seed, 1, draws])
        if self._steps is None:
            return int(random.integers(len(self.pools)))
        return min(int(np.searchsorted(self._steps, random.random(), side="right")), len(self.pools) - 1)

    def _order(self, pool: int, round_: int) -> np.ndarray:
        kept = self._orders.get(pool)
        if kept is None or kept[0] != round_:
            order = np.random.default_rng([self.seed, 2, pool, round_]).permutation(self.pools[pool])
            kept = self._orders[pool] = (round_, order)
        return kept[1]


def in_order(
    indices: Sequence[int],
    *,
    frames: int | None = None,
    atoms: int | None = None,
    budget: Budget | None = None,
    n_atoms: Callable[[int], int] | None = None,
) -> Iterator[list[int]]:
    """Cut frames into batches, in order, as full as those of a `Sampler` with the same settings."""
    batch: list[int] = []
    total = cost = 0
    for i in indices:
        own = budget.cost(i) if budget is not None else 0
        spent = budget is not None and cost + own > budget.limit
        if batch and (spent or len(batch) == frames or (atoms is not None and total >= atoms)):
            yield batch
            batch, total, cost = [], 0, 0
        batch.append(i)
        total += n_atoms(i) if n_atoms else 0
        cost += own
    if batch:
        yield batch
