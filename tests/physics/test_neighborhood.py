"""Joining frames into one neighbourhood."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import ModelInputs, NeighborSpec, frame_graph

ANGLES = NeighborSpec(2.8, 40, strict=True, pairs=True, inner=(NeighborSpec(2.2, 9),))
SPEC = NeighborSpec(3.5, 50, pairs=True, inner=(ANGLES, NeighborSpec(3.0, 4, only=((0, 1), (1, 1)))))


def graphs(spec=SPEC):
    rng = np.random.default_rng(0)
    sizes = (4, 0, 1, 6)
    return [
        frame_graph(rng.uniform(0, 4, (n, 3)), rng.integers(0, 2, n), np.eye(3) * 4.0 if n > 4 else None, spec)
        for n in sizes
    ]


def edges(graph, path):
    """Rows (centre, neighbour, displacement) of the edges of a list."""
    at = graph.edges_at(path)
    return np.column_stack([graph.center[at], graph.neighbor[at], graph.displacements[at]])


@pytest.mark.parametrize("path", [(), (0,), (0, 0), (1,)])
def test_collated_frames_are_the_frames(path):
    frames = graphs()
    hood = collate(frames)
    atoms = np.cumsum([0] + [f.n_atoms for f in frames])
    assert hood.n_atoms == atoms[-1]
    assert torch.bincount(hood.frame, minlength=4).tolist() == [f.n_atoms for f in frames]
    part = hood.at(path)
    expected = [edges(f, path) + np.array([a, a, 0, 0, 0]) for f, a in zip(frames, atoms, strict=False)]
    found = np.column_stack([part.center, part.neighbor, part.displacements])
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert len(found) > 10
    np.testing.assert_array_equal(part.edge_ptr.diff(), torch.bincount(part.center, minlength=hood.n_atoms))


@pytest.mark.parametrize("path", [(), (0,)])
def test_pairs_are_all_ordered_pairs_of_a_center(path):
    part = collate(graphs()).at(path)
    center, pairs = part.center.tolist(), part.pairs
    expected = [(a, b) for a in range(len(center)) for b in range(len(center)) if center[a] == center[b]]
    assert list(zip(pairs.ij.tolist(), pairs.ik.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(pairs.ptr.diff(), torch.bincount(pairs.ij, minlength=len(center)))


def test_lists_without_pairs_have_none():
    hood = collate(graphs())
    assert hood.inner[1].pairs is None
    assert hood.inner[0].inner[0].pairs is None


def test_types_of_tensors():
    hood = collate(graphs())
    assert hood.displacements.dtype == torch.float64
    assert all(t.dtype == torch.int64 and t.is_contiguous() for t in hood.tensors()[1:])
    assert hood.plan.tolist() == [0]


@pytest.mark.parametrize(
    ("inputs", "extra"),
    [
        (ModelInputs(), ()),
        (ModelInputs(n_fparam=2), ("fparam",)),
        (ModelInputs(n_fparam=2, n_aparam=3, charge_spin=True), ("fparam", "aparam", "charge_spin")),
    ],
)
def test_flat_tensors_and_back(inputs, extra):
    given = {"fparam": (2,), "aparam": None, "charge_spin": (2,)}
    rng = np.random.default_rng(1)
    frames = [replace(f, **{name: rng.normal(size=given[name] or (f.n_atoms, 3)) for name in extra}) for f in graphs()]
    hood = collate(frames)
    flat = hood.tensors()
    # seven of the root, its pairs, two lists with pointers, the list within and pairs of the first, inputs, plan
    assert len(flat) == 7 + 3 + 2 + 3 + 2 + 2 + len(extra) + 1
    assert flat[-1] is hood.plan
    back = Neighborhood.from_tensors(SPEC, inputs, flat)
    assert all(a is b for a, b in zip(flat, back.tensors(), strict=True))
    for name in given:
        assert getattr(back, name) is getattr(hood, name)
    if extra:
        assert back.fparam.shape == (4, 2)


def test_gradients_of_inner_lists_reach_the_displacements():
    hood = collate(graphs())
    d = hood.displacements.clone().requires_grad_(True)
    part = hood._replace(displacements=d).at((0, 0))
    (gradient,) = torch.autograd.grad((part.displacements**2).sum(), d)
    inside = np.zeros(len(d), dtype=bool)
    inside[hood.inner[0].edge[hood.inner[0].inner[0].edge]] = True
    np.testing.assert_array_equal(gradient.numpy(), np.where(inside[:, None], 2 * hood.displacements.numpy(), 0.0))


def test_moving_keeps_the_plan_on_the_cpu():
    hood = collate(graphs()).to("meta")
    assert isinstance(hood, Neighborhood)
    assert hood.plan.device.type == "cpu"
    assert all(t.device.type == "meta" for t in hood.tensors()[:-1])
    assert hood.inner[0].pairs.ij.device.type == "meta"
