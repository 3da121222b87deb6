"""Numbers taken from the data before training: the energy bias of each element and environment scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.errors import DataError
from dpsim.physics.neighbors import FrameGraph, IntArray


class EnergyBias(NamedTuple):
    """Least-squares energy of each element (spec common.md §11.1)."""

    bias: npt.NDArray[np.float64]
    """(n_types,) eV; zero for elements that do not occur."""
    residual: float
    """Standard deviation of what is left of the energies, eV per frame."""
    n_frames: int


def composition(types: npt.NDArray[np.int64], n_types: int) -> npt.NDArray[np.float64]:
    """Number of atoms of each type ``(n_types,)``; placeholders (-1) do not count."""
    return np.bincount(types[types >= 0], minlength=n_types).astype(np.float64)


def energy_bias(
    compositions: Sequence[npt.NDArray[np.float64]] | npt.NDArray[np.float64],
    energies: Sequence[float] | npt.NDArray[np.float64],
    excluded: Sequence[int] = (),
    preset: Mapping[int, float] | None = None,
) -> EnergyBias:
    """Minimum-norm least-squares fit of energies by composition.

    Parameters
    ----------
    compositions
        Atom counts ``(n_types,)`` of each frame that has an energy.
    energies
        eV, one a frame.
    excluded
        Types without an energy of their own.
    preset
        Energies by type that are given: they are taken out before the others are fitted.

    Raises
    ------
    DataError
        If there is no frame with an energy, and not every type has a preset one.
    """
    types, values = list(preset or {}), np.array(list((preset or {}).values()))
    if not len(energies) and not types:
        raise DataError("no frame of the training data has an energy: the energy bias of the elements cannot be fitted")
    a = np.array(compositions, dtype=np.float64)
    a[:, list(excluded)] = 0.0
    y = np.asarray(energies, dtype=np.float64) - a[:, types] @ values
    a[:, types] = 0.0
    bias = np.linalg.lstsq(a, y, rcond=None)[0].astype(np.float64) if len(y) else np.zeros(a.shape[1])
    residual = float(np.std(y - a @ bias)) if len(y) else 0.0
    bias[types] = values
    return EnergyBias(bias, residual, len(y))


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
