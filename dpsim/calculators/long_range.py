"""Evaluation of models with long-range electrostatics: what edges do not tell goes beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch

from dpsim.calculators.engines import Engine
from dpsim.calculators.prediction import Prediction, full_rows
from dpsim.errors import DataError
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.neighbors import FrameGraph, NeighborSpec

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PlacedGraph(FrameGraph):
    """The neighbourhood of a periodic frame, and where its atoms are."""

    positions: FloatArray | None = None
    """(N, 3) Å"""
    cell: FloatArray | None = None
    """(3, 3) Å"""


def placed(
    graph: FrameGraph,
    positions: FloatArray,
    types: npt.NDArray[np.int64],
    cell: FloatArray | None,
    spec: NeighborSpec,
    periodic: tuple[bool, bool, bool] | None,
) -> PlacedGraph:
    """The same neighbourhood with the structure that it was made from.

    Raises
    ------
    DataError
        If the structure is not periodic in three directions.
    """
    if cell is None or not (periodic is None or all(periodic)):
        raise DataError(
            "the model has electrostatics of a periodic cell: give a cell that is periodic in three directions"
        )
    known = {field.name: getattr(graph, field.name) for field in fields(FrameGraph)}
    return PlacedGraph(**known, positions=positions, cell=np.asarray(cell, dtype=np.float64))


def with_electrostatics(
    engine: Engine,
    hood: Neighborhood,
    graphs: Sequence[FrameGraph],
    short: Sequence[Prediction],
    masks: Sequence[BoolArray],
) -> Iterator[Prediction]:
    """Predictions of the short-range part with the electrostatic energy, forces and virial added.

    Parameters
    ----------
    hood
        Of all frames.
    masks
        Of every frame, which of its atoms are no placeholders.
    """
    places = [_place(graph) for graph in graphs]
    positions = torch.from_numpy(np.concatenate([position for position, _ in places]))
    cells = torch.from_numpy(np.stack([cell for _, cell in places]))
    found = engine.electrostatics(hood, positions, cells)
    energies, forces, virials = (values.cpu().numpy() for values in found)
    start = 0
    for prediction, real in zip(short, masks, strict=True):
        rows = slice(start, start + int(real.sum()))
        start = rows.stop
        more = {
            "energy": float(energies[rows].sum()),
            "forces": full_rows(forces[rows], real),
            "virial": virials[rows].sum(axis=0),
            "atomic_energy": full_rows(energies[rows], real),
            "atomic_virial": full_rows(virials[rows], real),
        }
        yield replace(prediction, **{name: getattr(prediction, name) + value for name, value in more.items()})


def _place(graph: FrameGraph) -> tuple[FloatArray, FloatArray]:
    assert isinstance(graph, PlacedGraph)
    assert graph.positions is not None
    assert graph.cell is not None
    return graph.positions, graph.cell
