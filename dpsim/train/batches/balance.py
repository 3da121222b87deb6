"""How the frames of a step are divided among processes: each gets nearly the same number of edges.

Time and memory of a step go by the pairs of neighbours, and all processes wait for the slowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dpsim.train.batches.frames import FrameSet, spaced
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.parallel.distributed import Workers

COUNTED, COUNTED_ATOMS = 2000, 20_000
"""Most frames, and about how many atoms, whose edges are counted before the first step; those of other frames follow
from frames of the same system. Counting takes about a second."""
_LOOKED_AT = 100


def divide(
    drawn: Sequence[Sequence[int]], cost: Callable[[int], int], fits: Callable[[Sequence[int]], bool] | None = None
) -> list[list[int]]:
    """Divide the frames of some batches anew, among as many, so that the costliest costs least; same in every process.

    Parameters
    ----------
    drawn
        Batches of frame indices, none of them empty.
    cost
        Of a frame.
    fits
        Whether frames may be one batch; the batches as they are do. None: always.

    Returns
    -------
    list of list of int
        None of them empty, frames in the order in which they were drawn.
    """
    frames = [i for batch in drawn for i in batch]
    costs = [cost(i) for i in frames]
    parts: list[list[int]] = [[] for _ in drawn]
    loads = [0] * len(drawn)
    for place in sorted(range(len(frames)), key=lambda k: (-costs[k], k)):
        least = min(range(len(drawn)), key=lambda k: (loads[k], len(parts[k]), k))
        parts[least].append(place)
        loads[least] += costs[place]
    found = [[frames[k] for k in sorted(part)] for part in parts]
    as_drawn = max(sum(cost(i) for i in batch) for batch in drawn)
    if max(loads) >= as_drawn or (fits is not None and not all(fits(batch) for batch in found)):
        return [list(batch) for batch in drawn]
    return found


class EdgeCounts:
    """Numbers of edges of frames; the processes count them together.

    Raises
    ------
    DataError
        If a frame is damaged.
    """

    def __init__(self, maker: BatchMaker, workers: Workers) -> None:
        frames = maker.frames
        pools = frames.pools("systems")
        self._frames, self._starts = frames, np.array([pool[0] for pool in pools])
        counted = [spaced(pool, math.ceil(_most(frames) * len(pool) / len(frames))) for pool in pools]
        chosen = sorted(i for some in counted for i in some)
        own = {i: maker.n_edges(i) for i in chosen[workers.rank :: workers.number]}
        self._known = {i: n for found in workers.gather(own) for i, n in found.items()}
        self._per_atom = [
            sum(self._known[i] for i in some) / max(sum(frames.n_atoms(i) for i in some), 1) for some in counted
        ]

    @property
    def complete(self) -> bool:
        """Whether every frame was counted."""
        return len(self._known) == len(self._frames)

    def __call__(self, i: int) -> int:
        """Edges of frame `i`, or about so many."""
        if i in self._known:
            return self._known[i]
        system = int(np.searchsorted(self._starts, i, side="right")) - 1
        return round(self._per_atom[system] * self._frames.n_atoms(i))


def _most(frames: FrameSet) -> int:
    """Frames that are counted."""
    some = frames.spread(_LOOKED_AT)
    return min(COUNTED, math.ceil(COUNTED_ATOMS * len(some) / sum(map(frames.n_atoms, some))))
