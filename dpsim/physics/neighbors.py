"""From positions and cell to the flat edge list that every model sees.

Lists come from vesin. An edge runs from a centre to a neighbour (a periodic image of an atom, possibly of
the centre itself); edges are sorted by centre. Angles of a centre are all ordered pairs of its edges inside
``a_rcut``, including the pair of an edge with itself, so they form an implicit n × n block.

E edges, B angle-edges, A angles, N atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dpsim.errors import DataError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class NeighborSpec(NamedTuple):
    """What a model needs of its neighbourhood."""

    cutoff: float
    """Å; edges with ``r <= cutoff`` are seen."""
    e_sel: int
    """Nearest edges kept for a centre that has more."""
    a_rcut: float = 0.0
    """Å; edges with ``r < a_rcut`` form angles. 0: no angles."""
    a_sel: int = 0
    """Only the nearest `a_sel` edges of a centre may form angles."""
    exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other; they still consume `e_sel` and `a_sel` places."""


@dataclass(frozen=True)
class FrameGraph:
    """The neighbourhood of one frame, as numpy arrays."""

    types: IntArray
    """(N,)"""
    displacements: FloatArray
    """(E, 3) Å, neighbour minus centre."""
    center: IntArray
    neighbor: IntArray
    """(E,) atom indices; `center` ascends."""
    angle_edge: IntArray
    """(B,) ascending indices of the edges that form angles."""
    angle_ij: IntArray
    angle_ik: IntArray
    """(A,) positions in `angle_edge`; `angle_ij` ascends, then `angle_ik`."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.types)

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.center)


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
    positions: FloatArray, cell: FloatArray | None, periodic: tuple[bool, bool, bool], cutoff: float
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
    if squared.min(initial=1.0) == 0.0:
        a, b = sorted((i[squared.argmin()], j[squared.argmin()]))
        raise DataError(f"atoms {a} and {b} share the position {positions[a].tolist()}: move or remove one of them")
    keep = squared <= cutoff * cutoff
    i, j, displacements, shift = i[keep], j[keep], displacements[keep], shift[keep]
    # one order for every machine: by centre, neighbour, image
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], j, i))
    return i[order], j[order], displacements[order]


def distance_slots(center: IntArray, distance: FloatArray, n_atoms: int) -> IntArray:
    """Rank (E,) of every edge among the edges of its centre, by distance from 0."""
    order = np.lexsort((distance, center))
    slots = np.empty(len(center), dtype=np.int64)
    slots[order] = np.arange(len(center)) - row_pointers(center, n_atoms)[center[order]]
    return slots


def angle_pairs(center_of_angle_edge: IntArray, n_atoms: int) -> tuple[IntArray, IntArray]:
    """Index pairs (A,) of the angles: all ordered pairs of the angle-edges of one centre."""
    counts = np.bincount(center_of_angle_edge, minlength=n_atoms)
    start = np.concatenate([[0], np.cumsum(counts)])[:-1]
    per_edge = counts[center_of_angle_edge]
    ij = np.repeat(np.arange(len(center_of_angle_edge)), per_edge)
    first = np.concatenate([[0], np.cumsum(per_edge)])[:-1]
    ik = np.arange(len(ij)) - first[ij] + start[center_of_angle_edge[ij]]
    return ij.astype(np.int64), ik.astype(np.int64)


def frame_graph(
    positions: FloatArray,
    types: IntArray,
    cell: FloatArray | None,
    spec: NeighborSpec,
    periodic: tuple[bool, bool, bool] | None = None,
) -> FrameGraph:
    """Build the neighbourhood of one frame.

    A centre with more than ``e_sel`` neighbours keeps the nearest; of those the nearest ``a_sel`` that lie
    inside ``a_rcut`` form angles; excluded pairs of types are taken out last, without freeing their places.

    Parameters
    ----------
    positions, cell
        (N, 3) and (3, 3) Å; ``cell`` None means open boundaries.
    types
        (N,) indices of the model's type map, no placeholders.
    periodic
        Directions that repeat; by default all three where there is a cell.
    """
    positions, types = np.asarray(positions, dtype=np.float64), np.asarray(types, dtype=np.int64)
    if periodic is None:
        periodic = (False, False, False) if cell is None else (True, True, True)
    center, neighbor, displacements = edge_list(positions, cell, periodic, spec.cutoff)
    distance = np.linalg.norm(displacements, axis=1)
    n_atoms = len(types)
    counts = np.bincount(center, minlength=n_atoms)
    angular = distance < spec.a_rcut
    keep = np.ones(len(center), dtype=bool)
    needs_slots = counts.max(initial=0) > spec.e_sel or (
        spec.a_rcut > 0 and np.bincount(center[angular], minlength=n_atoms).max(initial=0) > spec.a_sel
    )
    if needs_slots:
        slots = distance_slots(center, distance, n_atoms)
        keep &= slots < spec.e_sel
        angular &= slots < spec.a_sel
    for a, b in spec.exclude_types:
        pair = (types[center] == a) & (types[neighbor] == b)
        keep &= ~(pair | ((types[center] == b) & (types[neighbor] == a)))
    center, neighbor, displacements, angular = center[keep], neighbor[keep], displacements[keep], angular[keep]
    angle_edge = np.flatnonzero(angular).astype(np.int64)
    ij, ik = angle_pairs(center[angle_edge], n_atoms)
    return FrameGraph(types, displacements, center, neighbor, angle_edge, ij, ik)
