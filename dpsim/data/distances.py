"""Distances and numbers of neighbours in a frame, for inspection (the model's lists are made in `dpsim.physics`)."""

from __future__ import annotations

import numpy as np

from dpsim.data.frame import Frame

FARTHEST = 8.0
"""Å within which the closest pair is looked for."""


def pairs(frame: Frame, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centre, neighbour and distance (Å) of all ordered pairs within `cutoff`, images included."""
    from vesin import NeighborList  # inside, because it loads torch where that is installed

    if frame.n_atoms == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    periodic = frame.cell is not None
    box = frame.cell if frame.cell is not None else np.zeros((3, 3))
    neighbors = NeighborList(cutoff=cutoff, full_list=True)
    i, j, d = neighbors.compute(points=frame.positions, box=box, periodic=periodic, quantities="ijd")
    return i.astype(np.int64), j.astype(np.int64), d


def closest_pair(frame: Frame) -> tuple[float, int, int]:
    """Return distance (Å) and atoms of the closest pair; infinity and -1 if none is within `FARTHEST`."""
    cutoff = 1.5
    while True:
        i, j, d = pairs(frame, cutoff)
        if len(d):
            k = int(np.argmin(d))
            return float(d[k]), int(i[k]), int(j[k])
        if cutoff >= FARTHEST:
            return float("inf"), -1, -1
        cutoff = min(cutoff * 2, FARTHEST)


def neighbor_counts(frame: Frame, cutoff: float, n_types: int) -> np.ndarray:
    """Return ``(n_atoms, n_types)``: how many neighbours of each type every atom has within `cutoff` (Å)."""
    i, j, _ = pairs(frame, cutoff)
    counts = np.zeros((frame.n_atoms, n_types), np.int64)
    np.add.at(counts, (i, frame.types[j]), 1)
    return counts
