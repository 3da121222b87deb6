"""Frames that are nearly the same: found by sorted distances, which no order of atoms and no motion changes.

A frame is sketched by a few hundred numbers, each of which changes by at most `tol` when no distance changes by more:
order statistics of the distances to near neighbours. Only frames whose sketches agree are compared atom by atom;
most of the time goes into lists of neighbours unless many frames are alike.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from data_tools.clean_config import NearDuplicates
from dpsim.data import Frame
from dpsim.data.distances import pairs
from dpsim.data.write import without_placeholders
from dpsim.fields import FIELDS

__all__ = ["Frames", "NearDuplicates", "find_near_duplicates"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_RADIUS: Final = 5.0
"""Å within which neighbours are compared at least."""
_ALL: Final = 200
"""Atoms with open boundaries up to which all distances are compared."""
_FAR: Final = 1e4
"""Å; the radius where all distances are compared."""
_NEIGHBOURS: Final = 40
"""Neighbours in the sphere that is compared, on average."""
_NEAREST: Final = 12
"""A sketch holds the distances of atoms to so many nearest neighbours, each in an order of its own."""
_ORDERS: Final = 32
"""Most order statistics of each of these in a sketch, the extremes among them."""
_COLUMNS: Final = 8
"""Numbers of a sketch, those that vary most, by which others like it are looked up."""
_SLACK: Final = 1e-6
"""Å; of the rounding of single precision."""
_KEPT_BYTES: Final = 2**28
"""Memory for neighbourhoods that were computed."""
Progress = Callable[[int, int, str], None]


class Frames(Protocol):
    """Frames by number, a data set or a list."""

    def __getitem__(self, i: int, /) -> Frame:
        """Return one frame."""
        ...


@dataclass
class _Group:
    """Frames of one composition, with the same boundaries and the same inputs of a model beside the structure."""

    members: list[int] = field(default_factory=list)
    sketches: list[npt.NDArray[np.float32]] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    """Of an atom, eV; NaN where there is none."""


def find_near_duplicates(
    frames: Frames,
    order: Iterable[int],
    settings: NearDuplicates | None = None,
    *,
    fixed: Sequence[int] = (),
    progress: Progress | None = None,
) -> dict[int, int]:
    """Find frames that are nearly the same as another one that stays.

    Parameters
    ----------
    frames
        With finite coordinates and types of one type map; one is read twice or more if others are like it.
    order
        Numbers of the frames to look at; of frames like each other, the first one stays.
    settings
        What counts as nearly the same.
    fixed
        Numbers of frames that stay whatever they are like; they come first.
    progress
        Called with the number of frames that were read, how many there are, and what is done.

    Returns
    -------
    dict of int to int
        The frames that are nearly the same as another, each with the one that stays; the latter is in no pair itself.
    """
    settings = settings or NearDuplicates()
    firm = dict.fromkeys(fixed)
    wanted = [*firm, *(i for i in dict.fromkeys(order) if i not in firm)]
    groups: dict[bytes, _Group] = {}
    for done, i in enumerate(wanted, 1):
        frame = without_placeholders(frames[i])
        group = groups.setdefault(_group_key(frame), _Group())
        group.members.append(i)
        group.sketches.append(_sketch(frame))
        group.energies.append(float(frame.labels.get("energy", math.nan)) / max(frame.n_atoms, 1))
        if progress is not None:
            progress(done, len(wanted), "looking for near duplicates")
    found: dict[int, int] = {}
    for group in groups.values():
        if len(group.members) > 1:
            found |= _within(group, frames, settings, firm)
    return found


def _group_key(frame: Frame) -> bytes:
    """Return what near duplicates have in common to the last bit."""
    digest = hashlib.sha256(np.sort(frame.types).tobytes())
    digest.update(b"open" if frame.cell is None else b"periodic")
    for entry in FIELDS:
        if not entry.label and entry.name in frame.labels:
            value = np.round(np.asarray(frame.labels[entry.name], dtype=float), 6) + 0.0
            rows = value.reshape(frame.n_atoms, -1) if entry.kind == "atom" else value.reshape(1, -1)
            digest.update(entry.name.encode() + rows[np.lexsort(rows.T[::-1])].tobytes())
    return digest.digest()


def _sketch(frame: Frame) -> npt.NDArray[np.float32]:
    """Return order statistics, over the atoms of each element, of distances to n-th neighbours; and the size."""
    if frame.n_atoms == 0:
        return np.zeros(1, np.float32)
    radius = _FAR if _sees_all(frame) else _RADIUS
    around = _table(frame, np.zeros(frame.n_atoms, np.int64), radius, _NEAREST)[:, 0]
    chosen = np.unique(np.linspace(0, frame.n_atoms - 1, _ORDERS).round().astype(int))
    size = 0.0 if frame.cell is None else (frame.volume / frame.n_atoms) ** (1 / 3)
    ordered = [column[np.lexsort((column, frame.types))][chosen] for column in around.T[:_NEAREST]]
    return np.concatenate([*ordered, [size]]).astype(np.float32)


def _sees_all(frame: Frame) -> bool:
    return frame.cell is None and frame.n_atoms <= _ALL


def _table(frame: Frame, element: IntArray, radius: float, least: int = 0) -> FloatArray:
    """Return ``(atoms, elements, neighbours)``: distances to neighbours within a radius, by element, short ones first.

    Parameters
    ----------
    element
        (n_atoms,) from 0 on.
    radius
        Å; missing neighbours count as being there.
    least
        Least width of the table.
    """
    if _sees_all(frame):
        i, j = (~np.eye(frame.n_atoms, dtype=bool)).nonzero()
        d = np.linalg.norm(frame.positions[i] - frame.positions[j], axis=1)
    else:
        i, j, d = pairs(frame, radius)
    kinds = int(element.max()) + 1
    order = np.lexsort((d, element[j], i))
    slots = (i * kinds + element[j])[order]
    counts = np.bincount(slots, minlength=frame.n_atoms * kinds)
    rank = np.arange(len(slots)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((frame.n_atoms * kinds, max(int(counts.max(initial=0)), least)), radius)
    table[slots, rank] = d[order]
    return table.reshape(frame.n_atoms, kinds, -1)


def _radius(frame: Frame) -> float:
    """Return how far a comparison of atoms looks (Å); more than the least where a periodic structure is dilute."""
    if frame.cell is None:
        return _FAR if _sees_all(frame) else _RADIUS
    return max(_RADIUS, float((3 * _NEIGHBOURS * frame.volume / (4 * math.pi * frame.n_atoms)) ** (1 / 3)))


@dataclass(frozen=True)
class _Surroundings:
    """What every atom of a frame sees."""

    types: IntArray
    table: FloatArray
    radius: float


class _Cache:
    """Surroundings of frames, the last used ones kept."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._kept: OrderedDict[int, _Surroundings] = OrderedDict()
        self._bytes = 0

    def of(self, i: int) -> _Surroundings:
        """Return what the atoms of frame `i` see."""
        if i in self._kept:
            self._kept.move_to_end(i)
            return self._kept[i]
        frame = without_placeholders(self._frames[i])
        radius = _radius(frame)
        element = np.unique(frame.types, return_inverse=True)[1]
        found = _Surroundings(frame.types, _table(frame, element, radius), radius)
        self._kept[i] = found
        self._bytes += found.table.nbytes
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].table.nbytes
        return found


def _within(group: _Group, frames: Frames, settings: NearDuplicates, firm: dict[int, None]) -> dict[int, int]:
    """Return the near duplicates of one group; members come in the order in which they stay."""
    from scipy.spatial import cKDTree

    sketches, energies = np.stack(group.sketches), np.array(group.energies)
    tol = settings.tol + _SLACK
    columns = sketches[:, np.argsort(-sketches.std(axis=0), kind="stable")[:_COLUMNS]].astype(float) / tol
    if np.isfinite(energies).all():
        columns = np.column_stack([columns, energies / settings.energy])
    tree, cache = cKDTree(columns), _Cache(frames)
    found: dict[int, int] = {}
    gone = np.zeros(len(sketches), dtype=bool)
    may_go = np.array([i not in firm for i in group.members])
    for row, i in enumerate(group.members):
        if gone[row]:
            continue
        near = np.array(tree.query_ball_point(columns[row], 1.0 + 1e-9, p=np.inf), dtype=np.int64)
        near = np.sort(near[(near > row) & ~gone[near] & may_go[near]])
        near = near[np.abs(sketches[near] - sketches[row]).max(axis=1, initial=0.0) <= tol]
        near = near[~(np.abs(energies[near] - energies[row]) > settings.energy * (1 + 1e-9))]
        for other in near:
            if _same(cache.of(i), cache.of(group.members[other]), tol):
                gone[other] = True
                found[group.members[other]] = i
    return found


def _same(one: _Surroundings, other: _Surroundings, tol: float) -> bool:
    """Whether every atom of one frame has a counterpart of its own in the other that sees the same."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    radius, count = min(one.radius, other.radius), len(one.types)
    if count == 0:
        return True
    alike = np.zeros((count, count), dtype=bool)
    for rows in _blocks(count):
        alike[rows] = _alike(one, other, rows, radius, tol)
        if not alike[rows].any(axis=1).all():
            return False
    return bool((maximum_bipartite_matching(csr_matrix(alike), perm_type="column") >= 0).all())


def _blocks(count: int) -> Iterator[slice]:
    """Yield the rows to compare at once: a few first, for most frames that are not the same differ in any atom."""
    start, size = 0, 2
    while start < count:
        yield slice(start, start + size)
        start, size = start + size, min(4 * size, 32)


def _alike(one: _Surroundings, other: _Surroundings, rows: slice, radius: float, tol: float) -> npt.NDArray[np.bool_]:
    """Return which atoms of the other frame see the same as some of one: of their element, distances within `tol`."""
    mine, theirs = np.minimum(one.table[rows], radius), np.minimum(other.table, radius)
    width = min(mine.shape[2], theirs.shape[2])
    # Neighbours without a counterpart in the shorter table must lie at the radius, as far as anything counts.
    beyond = [np.all(table[..., width:] >= radius - tol, axis=(1, 2)) for table in (mine, theirs)]
    same: npt.NDArray[np.bool_] = np.equal.outer(one.types[rows], other.types) & np.logical_and.outer(*beyond)
    i, j = same.nonzero()
    same[i, j] = (np.abs(mine[i, :, :width] - theirs[j, :, :width]) <= tol).all(axis=(1, 2))
    return same
