"""A neighbourhood in pieces, and models evaluated piece by piece."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dpsim.calculators.engines import ModuleEngine, run_in_pieces
from dpsim.model.example import structures
from dpsim.physics.neighborhood import Neighborhood, collate, join
from dpsim.physics.neighbors import NeighborSpec, frame_graph
from dpsim.physics.pieces import divided, ends, items
from dpsim.testing import tiny_models

ANGLES = NeighborSpec(2.8, 40, strict=True, pairs=True, inner=(NeighborSpec(2.2, 9),))
SPEC = NeighborSpec(3.5, 50, pairs=True, inner=(ANGLES, NeighborSpec(3.0, 4, only=((0, 1), (1, 1)))))
MODELS = tiny_models()


def graphs():
    """Frames of several sizes, some atoms with nothing near."""
    rng = np.random.default_rng(0)
    made = [
        frame_graph(rng.uniform(0, size, (n, 3)), rng.integers(0, 3, n), None, SPEC)
        for n, size in ((6, 4.0), (0, 1.0), (1, 1.0), (5, 40.0), (9, 4.0))
    ]
    return [replace(g, aparam=rng.normal(size=(g.n_atoms, 2)), fparam=rng.normal(size=3)) for g in made]


def rows(hood: Neighborhood, path: tuple[int, ...], first: int = 0) -> np.ndarray:
    """Edges of a list: centre, types of both ends, displacement."""
    part = hood.at(path)
    types = hood.types[part.center], hood.row_types[part.neighbor]
    return np.column_stack([part.center + first, *types, part.displacements])


@pytest.mark.parametrize("atoms", [0, 1, 4, 7, 20, 21, 99, None])
def test_pieces_have_the_edges_of_the_whole(atoms: int | None) -> None:
    whole = collate(graphs())
    pieces = list(divided(join(graphs()), SPEC, atoms=atoms, most=150))
    starts = np.cumsum([0] + [piece.n_atoms for piece in pieces])
    assert starts[-1] == whole.n_atoms == 21
    if atoms is None:
        assert 2 < len(pieces) < 21
    else:
        assert len(pieces) == (-(-21 // atoms) if atoms else 1)
    for path in ((), (0,), (0, 0), (1,)):
        found = [rows(piece, path, start) for piece, start in zip(pieces, starts, strict=False)]
        np.testing.assert_array_equal(np.concatenate(found), rows(whole, path))
        counts = np.concatenate([piece.at(path).edge_ptr.diff() for piece in pieces])
        np.testing.assert_array_equal(counts, whole.at(path).edge_ptr.diff())
    for name in ("types", "frame", "aparam"):
        torch.testing.assert_close(torch.cat([getattr(piece, name) for piece in pieces]), getattr(whole, name))
    for piece in pieces:
        assert piece.fparam is whole.fparam or torch.equal(piece.fparam, whole.fparam)
        torch.testing.assert_close(piece.row_types[: piece.n_atoms], piece.types)
        for path in ((), (0,)):
            part = piece.at(path)
            n = np.diff(part.edge_ptr)
            assert len(part.pairs.ij) == (n**2).sum()
            assert torch.equal(part.center[part.pairs.ij], part.center[part.pairs.ik])
            assert torch.equal(part.pairs.ptr.diff(), torch.bincount(part.pairs.ij, minlength=len(part.center)))
    assert min(len(piece.center) for piece in pieces) == 0 or len(pieces) < 10


def test_pieces_are_as_large_as_allowed() -> None:
    hood = join(graphs())
    sizes, pairs = items(hood, SPEC), [hood.edge_ptr, hood.inner[0].edge_ptr]
    np.testing.assert_array_equal(sizes, np.diff(hood.edge_ptr) + sum(np.diff(ptr) ** 2 for ptr in pairs))
    assert ends(np.array([5, 5, 5, 40, 0, 0, 10]), 10) == [2, 3, 4, 7]
    assert ends(np.array([5, 5]), 10) == [2]
    assert ends(np.zeros(0, dtype=np.int64), 10) == []


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_the_same_in_pieces(name: str) -> None:
    model = MODELS[name].build(seed=1).with_precision("float64")
    engine = ModuleEngine(model, "cpu")
    hood = structures(model, (9, 1, 14), seed=2)
    if hood.aparam is not None:
        hood.aparam.uniform_(generator=torch.Generator().manual_seed(0))
    atomic, gradient = engine.run(hood)
    apart = not engine.facts.passes_messages
    for atoms in (None, 1, 5) if apart else (None,):
        found, slope = run_in_pieces(engine, hood._replace(pairs=None), atoms)
        scale = float(atomic.abs().max())
        torch.testing.assert_close(found, atomic, rtol=0, atol=1e-12 * scale)
        if gradient is None:
            assert slope is None
        else:
            assert float(gradient.abs().max()) > 0
            torch.testing.assert_close(slope, gradient, rtol=0, atol=1e-12 * float(gradient.abs().max()))
