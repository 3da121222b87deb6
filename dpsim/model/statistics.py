"""Numbers taken from the data before training: the output bias of each element and environment scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.errors import DataError
from dpsim.physics.neighbors import FrameGraph, IntArray


class Moments(NamedTuple):
    """Sums over rows of numbers, group by group; those of different data add up."""

    number: npt.NDArray[np.float64]
    """(groups,) of rows"""
    total: npt.NDArray[np.float64]
    """(groups, k) sums"""
    square: npt.NDArray[np.float64]
    """(groups, k) sums of squares"""

    @classmethod
    def of(cls, rows: npt.NDArray[np.float64], group: npt.NDArray[np.int64], n_groups: int) -> Moments:
        """Of rows (M, k), each of a group (M,)."""
        number = np.bincount(group, minlength=n_groups).astype(np.float64)
        total, square = np.zeros((2, n_groups, rows.shape[1]))
        np.add.at(total, group, rows)
        np.add.at(square, group, rows**2)
        return cls(number, total, square)

    def joined(self, other: Moments | None) -> Moments:
        """Sums over both; None counts as nothing.

        Raises
        ------
        ValueError
            If their rows have different numbers of components.
        """
        if other is None:
            return self
        if self.total.shape != other.total.shape:
            raise ValueError(
                f"found {self.total.shape[1]} numbers where other frames have {other.total.shape[1]}: "
                "expected equally many in all"
            )
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """(groups, k); zero for empty groups."""
        return self.total / np.maximum(self.number, 1)[:, None]

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """(groups, k) deviation of the rows from their mean."""
        return np.sqrt(np.maximum(self.square / np.maximum(self.number, 1)[:, None] - self.mean**2, 0.0))


class OutputBias(NamedTuple):
    """What each type contributes on average to what is predicted (spec common.md §11.1)."""

    bias: npt.NDArray[np.float64]
    """(n_types, k); zero for types that do not occur."""
    std: npt.NDArray[np.float64]
    """(n_types, k) standard deviation of what is left, of a structure (of an atom for `bias_of_atoms`)."""
    n_frames: int


def composition(types: npt.NDArray[np.int64], n_types: int) -> npt.NDArray[np.float64]:
    """Number of atoms of each type ``(n_types,)``; placeholders (-1) do not count."""
    return np.bincount(types[types >= 0], minlength=n_types).astype(np.float64)


def output_bias(
    compositions: Sequence[npt.NDArray[np.float64]] | npt.NDArray[np.float64],
    values: npt.ArrayLike,
    excluded: Sequence[int] = (),
    *,
    preset: Mapping[int, float | npt.NDArray[np.float64]] | None = None,
    mean: bool = False,
) -> OutputBias:
    """Minimum-norm least-squares fit of the values of structures by composition.

    Parameters
    ----------
    compositions
        Atom counts ``(n_types,)`` of each of M structures.
    values
        (M,) or (M, k), for example energies in eV.
    excluded
        Types without an output of their own.
    preset
        Contributions by type, numbers or (k,), that are given: they are taken out before the others are fitted.
    mean
        Values are means over the atoms that are not excluded, instead of sums.

    Raises
    ------
    DataError
        If there is no structure, and not every type has a preset contribution.
    """
    y = _rows(values)
    given = preset or {}
    types = list(given)
    contributions = np.stack([np.atleast_1d(one) for one in given.values()]) if given else np.zeros((0, 1))
    if not len(y) and not types:
        raise DataError("no frame of the training data has a label: the bias of the elements cannot be fitted")
    a = np.array(compositions, dtype=np.float64)
    a[:, list(excluded)] = 0.0
    if mean:
        a /= np.maximum(a.sum(axis=1, keepdims=True), 1)
    y = y - a[:, types] @ contributions if len(y) else np.zeros((0, contributions.shape[1]))
    a[:, types] = 0.0
    bias = np.zeros((a.shape[1], y.shape[1]))
    if len(y):
        bias += np.linalg.lstsq(a, y, rcond=None)[0]
    std = np.std(y - a @ bias, axis=0) if len(y) else np.zeros(bias.shape[1])
    bias[types] = contributions
    return OutputBias(bias, np.tile(std, (len(bias), 1)), len(y))


def _rows(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Values (M,) or (M, k) as (M, k)."""
    rows = np.asarray(values, dtype=np.float64)
    return rows.reshape(len(rows), -1) if len(rows) else np.zeros((0, 1))


def shared_bias(
    compositions: npt.NDArray[np.float64], values: npt.ArrayLike, excluded: Sequence[int] = (), *, mean: bool = False
) -> OutputBias:
    """Mean and deviation of the values of structures per atom, the same for all types; arguments as of `output_bias`.

    Raises
    ------
    DataError
        If there is no structure.
    """
    y = _rows(values)
    if not len(y):
        raise DataError("no frame of the training data has a label: the bias of the elements cannot be fitted")
    a = np.array(compositions, dtype=np.float64)
    n_types = a.shape[1]
    if not mean:
        a[:, list(excluded)] = 0.0
        y = y / np.maximum(a.sum(axis=1, keepdims=True), 1)
    return OutputBias(np.tile(y.mean(axis=0), (n_types, 1)), np.tile(y.std(axis=0), (n_types, 1)), len(y))


class EnvironmentStatistics(NamedTuple):
    """Mean and scale of an environment matrix by the type of the centre."""

    mean: npt.NDArray[np.float64]
    """(n_types, 4)"""
    stddev: npt.NDArray[np.float64]
    """(n_types, 4)"""


def environment_statistics(
    graphs: Iterable[FrameGraph], block: EnvironmentBlock, n_types: int
) -> EnvironmentStatistics:
    """Mean and standard deviation of the environment matrix by centre type (spec common.md §6).

    Empty neighbour places and excluded pairs count as zeros, as the nominal number of neighbours enters the
    definition; the switch is the polynomial one whatever the model uses.
    """
    sums = np.zeros((n_types, 2, 3))  # radial | angular ; count, sum, sum of squares
    sel = block.sel * (n_types if block.sel_of_each_type else 1)
    for graph in graphs:
        edges = _seen(graph, graph.edges_at(block.path), block.exclude_types)
        displacements, center_type = graph.displacements[edges], graph.types[graph.center[edges]]
        r = np.linalg.norm(displacements, axis=1)
        u = np.clip((r - block.rcut_smth) / (block.rcut - block.rcut_smth), 0.0, 1.0)
        w = u**3 * (-6 * u**2 + 15 * u - 10) + 1
        radial = w / (r + block.protection)
        angular = (w / (r + block.protection) ** 2)[:, None] * displacements
        for t in range(n_types):
            mine = center_type == t
            places = np.count_nonzero(graph.types == t) * sel
            sums[t, 0] += places, radial[mine].sum(), (radial[mine] ** 2).sum()
            sums[t, 1] += 3 * places, angular[mine].sum(), (angular[mine] ** 2).sum()
    mean, std = np.zeros((n_types, 4)), np.full((n_types, 4), 0.1)
    for t in range(n_types):
        if sums[t, 0, 0] > 0:
            first, square = sums[t, :, 1] / sums[t, :, 0], sums[t, :, 2] / sums[t, :, 0]
            spread = np.maximum(np.sqrt(np.maximum(square - first**2, 0.0)), 0.01)
            std[t] = spread[0], spread[1], spread[1], spread[1]
            mean[t, 0] = 0.0 if block.zero_mean else first[0]
    return EnvironmentStatistics(mean, std)


def _seen(graph: FrameGraph, edges: IntArray, excluded: Iterable[tuple[int, int]]) -> IntArray:
    """Those of the edges whose pair of types is not excluded."""
    a, b = graph.types[graph.center[edges]], graph.types[graph.neighbor[edges]]
    keep = np.ones(len(edges), dtype=bool)
    for s, t in excluded:
        keep &= ~(((a == s) & (b == t)) | ((a == t) & (b == s)))
    return edges[keep]
