"""Numbers taken from the data before training: the energy bias of each element and environment scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dpsim.errors import DataError
from dpsim.physics.neighbors import FrameGraph, NeighborSpec


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
    compositions: Sequence[npt.NDArray[np.float64]], energies: Sequence[float], excluded: Sequence[int] = ()
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

    Raises
    ------
    DataError
        If there is no frame with an energy.
    """
    if not len(energies):
        raise DataError("no frame of the training data has an energy: the energy bias of the elements cannot be fitted")
    a = np.array(compositions, dtype=np.float64)
    a[:, list(excluded)] = 0.0
    y = np.asarray(energies, dtype=np.float64)
    bias = np.linalg.lstsq(a, y, rcond=None)[0].astype(np.float64)
    return EnergyBias(bias, float(np.std(y - a @ bias)), len(y))


def environment_stddev(
    graphs: Iterable[FrameGraph], spec: NeighborSpec, rcut_smth: float, n_types: int, protection: float = 0.0
) -> npt.NDArray[np.float64]:
    """Standard deviations ``(n_types, 4)`` of the environment matrix by centre type (spec common.md §6).

    Empty neighbour places count as zeros, as the nominal `sel` enters the definition; the switch is the
    polynomial one whatever the model uses.
    """
    sums = np.zeros((n_types, 2, 3))  # radial | angular ; count, sum, sum of squares
    for graph in graphs:
        r = np.linalg.norm(graph.displacements, axis=1)
        u = np.clip((r - rcut_smth) / (spec.cutoff - rcut_smth), 0.0, 1.0)
        w = u**3 * (-6 * u**2 + 15 * u - 10) + 1
        radial = w / (r + protection)
        angular = (w / (r + protection) ** 2)[:, None] * graph.displacements
        center_type = graph.types[graph.center]
        for t in range(n_types):
            mine = center_type == t
            places = np.count_nonzero(graph.types == t) * spec.e_sel
            sums[t, 0] += places, radial[mine].sum(), (radial[mine] ** 2).sum()
            sums[t, 1] += 3 * places, angular[mine].sum(), (angular[mine] ** 2).sum()
    std = np.full((n_types, 4), 0.1)
    for t in range(n_types):
        if sums[t, 0, 0] > 0:
            mean, square = sums[t, :, 1] / sums[t, :, 0], sums[t, :, 2] / sums[t, :, 0]
            spread = np.maximum(np.sqrt(np.maximum(square - mean**2, 0.0)), 0.01)
            std[t] = spread[0], spread[1], spread[1], spread[1]
    return std
