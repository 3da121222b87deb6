"""Forces and virial from edge gradients: a Lennard-Jones crystal against ASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones

from dpsim import ops
from dpsim.physics.derivatives import energy_and_derivatives, forces_from_edges, sum_by_frame
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import NeighborSpec, frame_graph

SIGMA, EPSILON, CUTOFF = 2.2, 0.4, 5.5


def lennard_jones(hood):
    """Atomic energies, shifted to zero at the cutoff as ASE does."""
    s6 = (SIGMA**2 / (hood.displacements**2).sum(1)) ** 3
    shift = 4 * EPSILON * ((SIGMA / CUTOFF) ** 12 - (SIGMA / CUTOFF) ** 6)
    return ops.segment_sum(0.5 * (4 * EPSILON * (s6**2 - s6) - shift), hood.edge_ptr)


def structures():
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    cell = np.array([[5.0, 0.0, 0.0], [0.7, 4.8, 0.0], [-0.4, 0.6, 5.2]])
    positions = (grid / 2 + rng.uniform(-0.03, 0.03, grid.shape)) @ cell
    return [
        Atoms("Ar8", positions=positions, cell=cell, pbc=True),
        Atoms("Ar5", positions=positions[:5]),
        Atoms("Ar8", positions=positions, cell=cell, pbc=(True, True, False)),
        Atoms("Ar", positions=[[1.0, 2.0, 3.0]]),
    ]


def hood_of(frames):
    graphs = []
    for atoms in frames:
        types, cell = np.zeros(len(atoms), dtype=int), atoms.cell.array if atoms.pbc.any() else None
        periodic = tuple(atoms.pbc.tolist())
        graphs.append(frame_graph(atoms.positions, types, cell, NeighborSpec(CUTOFF, 500), periodic))
    return collate(graphs)


def test_lennard_jones_equals_ase():
    frames = structures()
    found = energy_and_derivatives(lennard_jones, hood_of(frames), len(frames))
    start = 0
    for index, atoms in enumerate(frames):
        atoms.calc = LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)
        rows = slice(start, start + len(atoms))
        start = rows.stop
        assert found.energy[index].item() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(found.atomic_energy[rows], atoms.get_potential_energies(), rtol=1e-12)
        np.testing.assert_allclose(found.forces[rows], atoms.get_forces(), atol=1e-12)
        if atoms.pbc.all():
            stress = atoms.get_stress(voigt=False)
            np.testing.assert_allclose(-found.virial[index] / atoms.get_volume(), stress, atol=1e-13)


def test_results_are_detached_unless_a_graph_is_asked_for():
    hood = hood_of(structures()[:1])
    strength = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    plain = energy_and_derivatives(lambda h: strength * lennard_jones(h), hood, 1)
    assert not any(x is not None and x.requires_grad for x in plain)
    kept = energy_and_derivatives(lambda h: strength * lennard_jones(h), hood, 1, create_graph=True)
    for name in ("energy", "forces", "virial"):
        value = getattr(kept, name)
        weights = torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(0))
        (slope,) = torch.autograd.grad((value * weights).sum(), strength, retain_graph=True)
        assert slope.item() == pytest.approx((getattr(plain, name) * weights).sum().item(), rel=1e-12)


def test_the_callers_displacements_are_left_alone():
    hood = hood_of(structures()[:1])
    with torch.no_grad():
        result = energy_and_derivatives(lennard_jones, hood, 1)
    assert not hood.displacements.requires_grad
    np.testing.assert_array_equal(forces_from_edges(result.edge_gradient, hood), result.forces)


def test_sum_by_frame():
    values = torch.arange(8.0).reshape(4, 2)
    found = sum_by_frame(values, torch.tensor([0, 0, 2, 2]), 4)
    assert found.tolist() == [[2, 4], [0, 0], [10, 12], [0, 0]]
