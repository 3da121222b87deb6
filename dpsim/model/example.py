"""Made-up neighbourhoods of a model: to trace it with, and to compare two forms of it on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from dpsim.model.base import Model
from dpsim.physics.neighborhood import InnerList, Neighborhood, collate
from dpsim.physics.neighbors import FrameGraph, InnerEdges, ModelInputs, NeighborSpec, frame_graph

_FRAMES = 4
"""Frames of the example; parameters of a single one would be taken for a constant size."""
REMOTE = 5
"""Rows of remote atoms of the example, as on several ranks."""


def example_neighborhood(model: Model, remote: int = REMOTE) -> Neighborhood:
    """A neighbourhood whose sizes all differ, so that tracing keeps them apart.

    What stands in the inner lists follows no rule but that of their sizes.

    Parameters
    ----------
    remote
        Rows beside those of the atoms; with 0 they are the atoms, which is all that sizes have in common.
    """
    rng = np.random.default_rng(0)
    spec = model.neighbors
    n_atoms, n_lists = 11, sum(1 for _ in spec.walk())
    for _ in range(200):
        graph = _grid(spec, model.n_row_types, n_atoms, rng)
        spare = graph.n_edges - n_atoms - 3 * n_lists
        if spare < 20:
            n_atoms += max(1, n_lists // 8)
            continue
        sizes = itertools.count(graph.n_edges - int(rng.integers(2, spare - 10)), -3)
        hood = collate([replace(graph, inner=_sized(spec, graph.n_edges, sizes, rng))])
        extra = torch.zeros(remote, dtype=torch.int64)
        hood = with_inputs(hood, model.inputs, _FRAMES)._replace(
            row_types=torch.cat([hood.types, extra]) if remote else hood.types,
            frame=torch.arange(n_atoms) * _FRAMES // n_atoms,
        )
        if _sizes_differ(hood):
            return hood
        n_atoms += 1
    raise AssertionError(f"no example with lists of different sizes was found for {spec}")


def structures(model: Model, sizes: Sequence[int], seed: int = 0) -> Neighborhood:
    """Frames of so many atoms each, near a grid, with the lists that the model needs of them."""
    rng = np.random.default_rng(seed)
    graphs = [_grid(model.neighbors, model.n_row_types, n, rng) for n in sizes]
    return with_inputs(collate(graphs), model.inputs, len(sizes))


def with_inputs(hood: Neighborhood, inputs: ModelInputs, n_frames: int) -> Neighborhood:
    """The neighbourhood with what else a model takes: parameters 0, no charge, a singlet."""
    n_atoms, double = hood.n_atoms, torch.float64
    return hood._replace(
        fparam=torch.zeros(n_frames, inputs.n_fparam, dtype=double) if inputs.n_fparam else None,
        aparam=torch.zeros(n_atoms, inputs.n_aparam, dtype=double) if inputs.n_aparam else None,
        charge_spin=torch.tensor([[0.0, 1.0]] * n_frames, dtype=double) if inputs.charge_spin else None,
    )


def _grid(spec: NeighborSpec, n_types: int, n_atoms: int, rng: np.random.Generator) -> FrameGraph:
    """Atoms near a grid, some twenty neighbours each."""
    side = 0.62 * min(one.cutoff for one in spec.walk())
    edge = math.ceil(n_atoms ** (1 / 3))
    grid = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:n_atoms]
    positions = (grid + rng.uniform(-0.1, 0.1, (n_atoms, 3))) * side
    return frame_graph(positions, rng.integers(0, n_types, n_atoms), None, spec)


def _sized(spec: NeighborSpec, around: int, sizes: Iterator[int], rng: np.random.Generator) -> tuple[InnerEdges, ...]:
    """Inner lists of a list of `around` edges: any of these edges, as many as `sizes` says next."""
    lists = []
    for one in spec.inner:
        size = next(sizes)
        edge = np.sort(rng.permutation(around)[:size]).astype(np.int64)
        lists.append(InnerEdges(edge, _sized(one, len(edge), sizes, rng)))
    return tuple(lists)


def _sizes_differ(hood: Neighborhood) -> bool:
    """Whether no two of atoms, rows, edges and pairs of all lists are as many, or as many as pointers."""
    sizes = [_FRAMES, len(hood.types), len(hood.center)]
    sizes += [len(hood.row_types)] if hood.row_types is not hood.types else []
    lists: list[Neighborhood | InnerList] = [hood]
    while lists:
        one = lists.pop()
        sizes += [len(one.pairs.ij)] if one.pairs else []
        sizes += [len(inner.edge) for inner in one.inner]
        lists += one.inner
    ends = [size for n in sizes for size in (n, n + 1)]
    return len(set(ends)) == len(ends) and min(sizes) > 1
