"""From positions and cell to the flat edge lists that every model sees.

Lists come from vesin. An edge runs from a centre to a neighbour (a periodic image of an atom, possibly of
the centre itself); edges are sorted by centre. A model sees one list, the root, and lists within it: the
nearer edges of an inner block, those that form angles. Pairs of a list are all ordered pairs of the edges of a
centre, including the pair of an edge with itself, so they form an implicit n × n block.

E edges, N atoms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dpsim.errors import DataError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


CHARGES = range(-100, 100)
"""Total charges, in e, that a model may take."""
SPINS = range(100)
"""Spin multiplicities that a model may take."""


class NeighborSpec(NamedTuple):
    """What a model needs of its neighbourhood: a list of edges, and lists within it.

    The places of a centre's neighbours are counted by distance over all that lie within the cutoff of the
    outermost list, before exclusions: an excluded neighbour keeps its place.
    """

    cutoff: float
    """Å; edges with ``r <= cutoff`` are seen."""
    sel: int
    """Nearest neighbours kept for a centre that has more."""
    sel_by_type: tuple[int, ...] = ()
    """Of each type of neighbour, nearest ones kept; empty: no such limit."""
    exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other, in this list and those within."""
    pairs: bool = False
    """Whether the pairs of the edges of a centre are listed."""
    strict: bool = False
    """Whether an edge of exactly the length of the cutoff is left out."""
    only: tuple[tuple[int, int], ...] = ()
    """Types (centre, neighbour), in this order, of the edges that are listed; empty: all."""
    inner: tuple[NeighborSpec, ...] = ()
    """Lists within this one."""

    def walk(self) -> Iterator[NeighborSpec]:
        """This list and all lists within, a list before those within it."""
        yield self
        for spec in self.inner:
            yield from spec.walk()

    def at(self, path: Sequence[int]) -> NeighborSpec:
        """Follow `path` from here: the number of an inner list, then of one within that."""
        return self if not path else self.inner[path[0]].at(path[1:])


def combined(specs: Sequence[NeighborSpec]) -> NeighborSpec:
    """Root list that holds several others as its inner ones, in their order."""
    return NeighborSpec(max(s.cutoff for s in specs), max(s.sel for s in specs), inner=tuple(specs))


class ModelInputs(NamedTuple):
    """What a model is given beside the structure."""

    n_fparam: int = 0
    """Parameters of a frame."""
    n_aparam: int = 0
    """Parameters of an atom."""
    charge_spin: bool = False
    """Whether it takes total charge and spin multiplicity."""
    default_fparam: tuple[float, ...] | None = None
    """Used where no frame parameters are given."""
    default_charge_spin: tuple[float, float] | None = None
    """Used where no charge and spin are given."""


@dataclass(frozen=True)
class InnerEdges:
    """A list within another."""

    edge: IntArray
    """(B,) ascending positions in the list around it."""
    inner: tuple[InnerEdges, ...] = ()


@dataclass(frozen=True)
class FrameGraph:
    """The neighbourhood of one frame, as numpy arrays."""

    spec: NeighborSpec
    types: IntArray
    """(N,)"""
    displacements: FloatArray
    """(E, 3) Å, neighbour minus centre."""
    center: IntArray
    neighbor: IntArray
    """(E,) atom indices; `center` ascends."""
    inner: tuple[InnerEdges, ...] = ()
    """Lists within, as `spec` asks for them."""
    fparam: FloatArray | None = None
    """(n_fparam,) parameters of the frame, for models that take them."""
    aparam: FloatArray | None = None
    """(N, n_aparam) parameters of the atoms."""
    charge_spin: FloatArray | None = None
    """(2,) total charge and spin multiplicity."""
    offsets: FloatArray | None = None
    """(N, 3) Å, of virtual atoms from the atoms that they belong to; for spin models."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.types)

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.center)

    def edges_at(self, path: Sequence[int]) -> IntArray:
        """Edges (B,) of the inner list at `path`, as positions in the root list."""
        edges, lists = np.arange(self.n_edges), self.inner
        for k in path:
            edges, lists = edges[lists[k].edge], lists[k].inner
        return edges

    @property
    def n_bytes(self) -> int:
        """Memory of all arrays."""

        def lists(inner: tuple[InnerEdges, ...]) -> int:
            return sum(one.edge.nbytes + lists(one.inner) for one in inner)

        own = (self.types, self.displacements, self.center, self.neighbor)
        return sum(a.nbytes for a in own) + lists(self.inner)


def row_pointers(sorted_index: IntArray, n_rows: int) -> IntArray:
    """CSR row pointers ``(n_rows + 1,)`` of an ascending index."""
    return np.concatenate([[0], np.cumsum(np.bincount(sorted_index, minlength=n_rows))]).astype(np.int64)


def check_cell(cell: FloatArray | None, periodic: tuple[bool, bool, bool]) -> None:
    """Refuse a periodic cell without volume.

    Raises
    ------
    DataError
        If a direction is periodic and the cell is missing or (nearly) flat.
    """
    if not any(periodic):
        return
    if cell is None or not np.all(np.isfinite(cell)):
        raise DataError("a periodic structure needs a finite 3 × 3 cell: set it, or use open boundaries")
    vectors = np.asarray(cell, dtype=float)[np.array(periodic, dtype=bool)]
    lengths = np.linalg.norm(vectors, axis=1)
    spread = np.sqrt(max(np.linalg.det(vectors @ vectors.T), 0.0))
    if np.any(lengths < 1e-3) or spread < 1e-6 * np.prod(lengths):
        raise DataError(
            f"the periodic vectors of cell {np.asarray(cell).tolist()} are too short or parallel: "
            "expected independent vectors, in Å, one a row"
        )


def close_gaps(
    positions: FloatArray, cell: FloatArray | None, periodic: tuple[bool, bool, bool], cutoff: float
) -> FloatArray:
    """Positions for the search alone: wide empty gaps across directions that do not repeat are narrowed.

    What lies within the cutoff stays as it is, and what does not stays apart. Cell lists have as many cells as
    the extent asks for, and vesin's ends the process where a fragment is a million ångströms away.
    """
    if all(periodic):
        return positions
    vectors = np.zeros((0, 3)) if cell is None else np.asarray(cell, dtype=np.float64)[np.array(periodic, dtype=bool)]
    across = np.linalg.svd(vectors)[2][len(vectors) :] if len(vectors) else np.eye(3)
    heights = positions @ across.T
    if np.ptp(heights, axis=0).max() < 1000 * cutoff:
        return positions
    order = np.argsort(heights, axis=0)
    ascending = np.take_along_axis(heights, order, axis=0)
    steps = np.minimum(np.diff(ascending, axis=0, prepend=ascending[:1]), 2 * cutoff)
    narrowed = np.empty_like(heights)
    np.put_along_axis(narrowed, order, np.cumsum(steps, axis=0), axis=0)
    return positions + (narrowed - heights) @ across


def edge_list(
    positions: FloatArray,
    cell: FloatArray | None,
    periodic: tuple[bool, bool, bool],
    cutoff: float,
    *,
    n_real: int | None = None,
) -> tuple[IntArray, IntArray, FloatArray]:
    """All edges with ``r <= cutoff``, sorted by centre.

    Parameters
    ----------
    positions
        (N, 3) Å, wrapped or not.
    cell
        (3, 3) Å, rows are vectors, or None for open boundaries.
    periodic
        Which cell vectors repeat.
    cutoff
        Å; may exceed the cell.
    n_real
        Number of atoms, the first ones, that must not share a position; by default all. Those behind them are virtual.

    Returns
    -------
    center, neighbor : (E,)
    displacements : (E, 3) Å, in float64 from positions and image shifts.

    Raises
    ------
    DataError
        If a periodic cell is flat, or two atoms are at the same position.
    """
    import vesin

    check_cell(cell, periodic)
    if len(positions) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, np.zeros((0, 3))
    box = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
    # vesin's cut-off is exclusive at rounding level; the models' is inclusive
    neighbor_list = vesin.NeighborList(cutoff=float(cutoff) * (1 + 1e-12), full_list=True, n_threads=1)
    points = np.ascontiguousarray(close_gaps(positions, cell, periodic, cutoff), dtype=np.float64)
    i, j, shift = neighbor_list.compute(points=points, box=box, periodic=list(map(bool, periodic)), quantities="ijS")
    i, j = i.astype(np.int64), j.astype(np.int64)
    displacements = positions[j] - positions[i] + shift.astype(np.float64) @ box
    squared = np.einsum("ek,ek->e", displacements, displacements)
    refused = squared == 0.0
    if n_real is not None:
        refused &= np.maximum(i, j) < n_real
    if refused.any():
        first = int(np.flatnonzero(refused)[0])
        a, b = sorted((i[first], j[first]))
        raise DataError(f"atoms {a} and {b} share the position {positions[a].tolist()}: move or remove one of them")
    keep = squared <= cutoff * cutoff
    i, j, displacements, shift = i[keep], j[keep], displacements[keep], shift[keep]
    # one order for every machine: by centre, neighbour, image
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], j, i))
    return i[order], j[order], displacements[order]


def distance_slots(center: IntArray, distance: FloatArray, n_atoms: int) -> IntArray:
    """Rank (E,) of every edge among the edges of its centre, by distance from 0; `center` need not ascend."""
    order = np.lexsort((distance, center))
    slots = np.empty(len(center), dtype=np.int64)
    slots[order] = np.arange(len(center)) - row_pointers(np.sort(center), n_atoms)[center[order]]
    return slots


def pair_indices(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Index pairs (A,) of all ordered pairs of the edges of one centre, `counts` (N,) edges a centre."""
    start = np.concatenate([[0], np.cumsum(counts)])[:-1]
    per_edge = np.repeat(counts, counts)
    ij = np.repeat(np.arange(len(per_edge)), per_edge)
    first = np.concatenate([[0], np.cumsum(per_edge)])[:-1]
    ik = np.arange(len(ij)) - first[ij] + np.repeat(start, counts)[ij]
    return ij.astype(np.int64), ik.astype(np.int64)


class _Candidates:
    """Edges within the outermost cutoff, and their places; computed when a list first asks for them."""

    def __init__(self, types: IntArray, center: IntArray, neighbor: IntArray, distance: FloatArray) -> None:
        self.n_atoms, self.center, self.distance = len(types), center, distance
        self.types, self.center_type, self.neighbor_type = types, types[center], types[neighbor]
        self._slots: IntArray | None = None

    @property
    def slots(self) -> IntArray:
        if self._slots is None:
            self._slots = distance_slots(self.center, self.distance, self.n_atoms)
        return self._slots

    def most(self, mask: BoolArray) -> int:
        """Largest number of edges of one centre."""
        return int(np.bincount(self.center[mask], minlength=self.n_atoms).max(initial=0))

    def chosen(self, spec: NeighborSpec, around: BoolArray) -> BoolArray:
        """Mask (E,) of the edges of a list, given that of the list around it, places and exclusions included."""
        within = self.distance < spec.cutoff if spec.strict else self.distance <= spec.cutoff
        mask: BoolArray = around & within
        if self.most(within) > spec.sel:
            mask &= self.slots < spec.sel
        for t, limit in enumerate(spec.sel_by_type):
            mine = self.neighbor_type == t
            if self.most(mine & within) > limit:
                mask[mine] &= distance_slots(self.center[mine], self.distance[mine], self.n_atoms) < limit
        if spec.only:
            mask &= np.any([(self.center_type == a) & (self.neighbor_type == b) for a, b in spec.only], axis=0)
        for a, b in spec.exclude_types:
            pair = (self.center_type == a) & (self.neighbor_type == b)
            mask &= ~(pair | ((self.center_type == b) & (self.neighbor_type == a)))
        return mask

    def inner(self, spec: NeighborSpec, around: BoolArray) -> tuple[InnerEdges, ...]:
        """Lists within a list of this mask (E,)."""
        lists = []
        for one in spec.inner:
            mask = self.chosen(one, around)
            lists.append(InnerEdges(np.flatnonzero(mask[around]).astype(np.int64), self.inner(one, mask)))
        return tuple(lists)


def frame_graph(
    positions: FloatArray,
    types: IntArray,
    cell: FloatArray | None,
    spec: NeighborSpec,
    periodic: tuple[bool, bool, bool] | None = None,
    *,
    n_real: int | None = None,
) -> FrameGraph:
    """Build the neighbourhood of one frame.

    Parameters
    ----------
    positions, cell
        (N, 3) and (3, 3) Å; ``cell`` None means open boundaries.
    types
        (N,) indices of the model's type map, no placeholders.
    periodic
        Directions that repeat; by default all three where there is a cell.
    n_real
        As in `edge_list`.
    """
    positions, types = np.asarray(positions, dtype=np.float64), np.asarray(types, dtype=np.int64)
    if periodic is None:
        periodic = (False, False, False) if cell is None else (True, True, True)
    center, neighbor, displacements = edge_list(positions, cell, periodic, spec.cutoff, n_real=n_real)
    candidates = _Candidates(types, center, neighbor, np.linalg.norm(displacements, axis=1))
    kept = candidates.chosen(spec, np.ones(len(center), dtype=bool))
    inner = candidates.inner(spec, kept)
    if not kept.all():
        center, neighbor, displacements = center[kept], neighbor[kept], displacements[kept]
    return FrameGraph(spec, types, displacements, center, neighbor, inner)
