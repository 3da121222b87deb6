"""A neighbourhood in pieces, for models whose atoms pass no messages.

Such a model needs the edges of an atom and the types of its neighbours, so that the atoms can be evaluated one piece
after the other, and the memory of the evaluation does not grow with their number. Those of LAMMPS are divided alike
by `lammps_src/system/neighborhood.cpp`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from dpsim.physics.neighborhood import InnerList, Neighborhood, with_pairs
from dpsim.physics.neighbors import NeighborSpec

IntArray = npt.NDArray[np.int64]
CPU_ITEMS, GPU_ITEMS = 200_000, 2_000_000
"""Edges and pairs of edges of a piece. On a CPU more were measured to save no time; a GPU needs more to be busy, how
many was not measured."""


def items(hood: Neighborhood, spec: NeighborSpec) -> IntArray:
    """Edges and pairs of edges ``(N,)`` of each centre, the pairs of all lists."""
    total: IntArray = np.diff(hood.edge_ptr.numpy())
    lists: list[tuple[Neighborhood | InnerList, NeighborSpec]] = [(hood, spec)]
    while lists:
        one, wanted = lists.pop()
        if wanted.pairs:
            total = total + np.diff(one.edge_ptr.numpy()) ** 2
        lists += zip(one.inner, wanted.inner, strict=True)
    return total


def ends(sizes: IntArray, most: int) -> list[int]:
    """Ends of pieces of consecutive centres, each with as many of these sizes as add up to `most`, but one at least."""
    found, start = [0], 0
    reached = np.cumsum(sizes)
    while start < len(sizes):
        before = int(reached[start - 1]) if start else 0
        start = max(int(np.searchsorted(reached, before + most, side="right")), start + 1)
        found.append(start)
    return found[1:]


def divided(
    hood: Neighborhood, spec: NeighborSpec, *, atoms: int | None = None, most: int = CPU_ITEMS
) -> Iterator[Neighborhood]:
    """The pieces of a neighbourhood, one after the other.

    Parameters
    ----------
    hood
        On the CPU, without pairs (`join`).
    spec
        Its lists.
    atoms
        Atoms of a piece; by default as many as have `most` edges and pairs together. 0: all are one piece.

    Yields
    ------
    Neighborhood
        With pairs. One that is not the whole has, beside the rows of its atoms, one of each type: its neighbours are
        known by type alone.
    """
    n = hood.n_atoms
    stops = ends(items(hood, spec), most) if atoms is None else [*range(atoms or n, n, atoms or 1), n]
    if len(stops) < 2:
        yield with_pairs(hood, spec)
        return
    for first, end in pairwise((0, *stops)):
        yield with_pairs(_piece(hood, first, end), spec)


def _piece(hood: Neighborhood, first: int, end: int) -> Neighborhood:
    start, stop = int(hood.edge_ptr[first]), int(hood.edge_ptr[end])
    types = hood.types[first:end]
    kinds = torch.arange(int(hood.row_types.max()) + 1)
    return hood._replace(
        displacements=hood.displacements[start:stop],
        types=types,
        row_types=torch.cat([types, kinds]),
        frame=hood.frame[first:end],
        center=hood.center[start:stop] - first,
        neighbor=hood.row_types.index_select(0, hood.neighbor[start:stop]) + (end - first),
        edge_ptr=hood.edge_ptr[first : end + 1] - start,
        inner=_inner(hood.inner, first, end, start),
        aparam=None if hood.aparam is None else hood.aparam[first:end],
        offsets=None if hood.offsets is None else hood.offsets[first:end],
    )


def _inner(lists: tuple[InnerList, ...], first: int, end: int, around: int) -> tuple[InnerList, ...]:
    """Lists within a piece whose first edge in the list around is `around`."""
    found = []
    for one in lists:
        start, stop = int(one.edge_ptr[first]), int(one.edge_ptr[end])
        within = _inner(one.inner, first, end, start)
        found.append(InnerList(one.edge[start:stop] - around, one.edge_ptr[first : end + 1] - start, None, within))
    return tuple(found)
