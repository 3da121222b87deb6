"""Joining frames into one neighbourhood."""

from __future__ import annotations

import numpy as np
import torch

from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import NeighborSpec, frame_graph

SPEC = NeighborSpec(3.5, 50, 2.8, 40)


def graphs():
    rng = np.random.default_rng(0)
    sizes = (4, 0, 1, 6)
    return [
        frame_graph(rng.uniform(0, 4, (n, 3)), rng.integers(0, 2, n), np.eye(3) * 4.0 if n > 4 else None, SPEC)
        for n in sizes
    ]


def test_fields_are_in_the_order_of_a_frozen_model():
    assert Neighborhood._fields == (
        "displacements", "types", "row_types", "frame", "center", "neighbor", "edge_ptr", "angle_edge", "angle_ij",
        "angle_ik", "angle_ptr", "plan",
    )  # fmt: skip


def test_collated_frames_are_the_frames():
    frames = graphs()
    hood = collate(frames)
    atoms = np.cumsum([0] + [f.n_atoms for f in frames])
    assert hood.n_atoms == atoms[-1]
    assert torch.bincount(hood.frame, minlength=4).tolist() == [f.n_atoms for f in frames]
    for index, frame in enumerate(frames):
        edges = np.flatnonzero(hood.frame[hood.center].numpy() == index)
        np.testing.assert_array_equal(hood.displacements[edges], frame.displacements)
        np.testing.assert_array_equal(hood.center[edges] - atoms[index], frame.center)
        np.testing.assert_array_equal(hood.neighbor[edges] - atoms[index], frame.neighbor)
        angle_edges = np.flatnonzero(np.isin(hood.angle_edge, edges))
        first_edge, first_angle_edge = (x[0] if len(x) else 0 for x in (edges, angle_edges))
        np.testing.assert_array_equal(hood.angle_edge[angle_edges] - first_edge, frame.angle_edge)
        angles = np.flatnonzero(np.isin(hood.angle_ij, angle_edges))
        np.testing.assert_array_equal(hood.angle_ij[angles] - first_angle_edge, frame.angle_ij)
        np.testing.assert_array_equal(hood.angle_ik[angles] - first_angle_edge, frame.angle_ik)


def test_pointers_and_types_of_tensors():
    hood = collate(graphs())
    np.testing.assert_array_equal(hood.edge_ptr.diff(), torch.bincount(hood.center, minlength=hood.n_atoms))
    np.testing.assert_array_equal(hood.angle_ptr.diff(), torch.bincount(hood.angle_ij, minlength=len(hood.angle_edge)))
    assert hood.displacements.dtype == torch.float64
    assert all(t.dtype == torch.int64 and t.is_contiguous() for t in hood[1:])
    assert hood.plan.tolist() == [0]


def test_moving_keeps_the_plan_on_the_cpu():
    hood = collate(graphs()).to("meta")
    assert isinstance(hood, Neighborhood)
    assert hood.plan.device.type == "cpu"
    assert all(t.device.type == "meta" for t in hood[:-1])
