"""The doubled system of spin models, and what its forces mean for atoms and spins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpsim.errors import DataError
from dpsim.physics.derivatives import energy_and_derivatives, sum_by_frame
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import NeighborSpec, frame_graph
from dpsim.physics.spin import doubled, fold_forces, real_rows, spin_graph

SCALE = (0.3, 0.0, 0.2)
IDLE = tuple((t, 4) for t in range(6))  # type 1 has no spin: its virtual type 4 has no neighbours
SPEC = NeighborSpec(cutoff=3.5, sel=200, exclude_types=IDLE)


def structure(n=5, seed=0, periodic=True):
    rng = np.random.default_rng(seed)
    cell = 4.0 * np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)) if periodic else None
    sites = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]][:n])
    positions = 2.0 * sites + rng.uniform(-0.2, 0.2, (n, 3))
    return positions, np.arange(n) % 3, cell, rng.normal(size=(n, 3))


def energies(hood):
    """Energies of real atoms that depend on distances, types and, by pairs of edges, on angles."""
    strength = torch.tensor([1.0, -0.7, 0.4, 0.8, 5.0, -0.6], dtype=torch.float64)
    d = hood.displacements
    r2 = (d * d).sum(1) + 0.01
    weight = strength[hood.types[hood.center]] * strength[hood.types[hood.neighbor]] * torch.exp(-r2)
    field = torch.zeros((hood.n_atoms, 3), dtype=d.dtype).index_add(0, hood.center, weight[:, None] * d)
    pair = torch.zeros(hood.n_atoms, dtype=d.dtype).index_add(0, hood.center, weight)
    return (pair + (field * field).sum(1)) * (hood.types < 3)


def hood_of(*structures):
    return collate([spin_graph(p, t, c, SPEC, None, s, SCALE) for p, t, c, s in structures])


def energy(positions, types, cell, spins):
    return float(energies(hood_of((positions, types, cell, spins))).sum())


def derivatives(*structures):
    """Energy, forces, magnetic forces and virials of structures evaluated together."""
    hood = hood_of(*structures)
    raw = energy_and_derivatives(energies, hood, len(structures))
    folded = fold_forces(raw.forces, hood, torch.tensor(SCALE, dtype=torch.float64))
    atoms, _ = real_rows(hood, 3)
    virial = raw.virial + sum_by_frame(folded.virial, hood.frame[atoms], len(structures))
    return raw.energy.numpy(), folded.forces.numpy(), folded.magnetic.numpy(), virial.numpy()


def slope(function, step=1e-4):
    h = step
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def test_each_atom_gets_a_virtual_one():
    positions, types, _, spins = structure()
    both = doubled(positions, types, spins, SCALE)
    assert both.types.tolist() == [0, 1, 2, 0, 1, 3, 4, 5, 3, 4]
    np.testing.assert_array_equal(both.positions[:5], positions)
    np.testing.assert_array_equal(both.offsets[:5], 0.0)
    np.testing.assert_array_equal(both.positions[5:], positions + both.offsets[5:])
    np.testing.assert_allclose(both.offsets[5:], spins * np.array([0.3, 0, 0.2, 0.3, 0])[:, None], rtol=1e-15)


def test_edges_are_those_of_all_atoms_but_virtual_ones_without_spin():
    positions, types, cell, spins = structure()
    graph = spin_graph(positions, types, cell, SPEC, None, spins, SCALE)
    both = doubled(positions, types, spins, SCALE)
    every = frame_graph(both.positions, both.types, cell, NeighborSpec(3.5, 200), n_real=5)
    keep = (every.types[every.center] != 4) & (every.types[every.neighbor] != 4)
    assert 0 < keep.sum() < len(keep)
    np.testing.assert_array_equal(graph.displacements, every.displacements[keep])
    np.testing.assert_array_equal(graph.neighbor, every.neighbor[keep])
    assert graph.offsets is not None
    np.testing.assert_array_equal(graph.offsets, both.offsets)


@pytest.mark.parametrize("periodic", [True, False])
def test_forces_on_atoms_and_spins_against_finite_differences(periodic):
    positions, types, cell, spins = structure(periodic=periodic)
    _, forces, magnetic, _ = derivatives((positions, types, cell, spins))
    assert np.abs(magnetic[types != 1]).min() > 1e-6
    np.testing.assert_array_equal(magnetic[types == 1], 0.0)
    for i in range(5):
        for k in range(3):
            unit = np.zeros((5, 3))
            unit[i, k] = 1.0
            moved = slope(lambda h, unit=unit: energy(positions + h * unit, types, cell, spins))
            turned = slope(lambda h, unit=unit: energy(positions, types, cell, spins + h * unit))
            assert forces[i, k] == pytest.approx(-moved, rel=1e-7, abs=1e-9)
            assert magnetic[i, k] == pytest.approx(-turned, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("periodic", [True, False])
def test_virial_is_that_of_a_strain_at_fixed_spins(periodic):
    positions, types, cell, spins = structure(periodic=periodic)
    virial = derivatives((positions, types, cell, spins))[3][0]
    assert np.abs(virial - virial.T).max() > 1e-4  # spins feel a torque, so it is not symmetric
    for k in range(3):
        for m in range(3):
            unit = np.zeros((3, 3))
            unit[k, m] = 1.0

            def strained(h, unit=unit):
                deformation = (np.eye(3) + h * unit).T
                return energy(positions @ deformation, types, None if cell is None else cell @ deformation, spins)

            assert virial[k, m] == pytest.approx(-slope(strained), rel=1e-7, abs=1e-9)


def test_frames_of_a_batch_do_not_mix():
    structures = [structure(5, 0), structure(3, 1, periodic=False), structure(1, 2), structure(4, 3)]
    together = derivatives(*structures)
    alone = [derivatives(one) for one in structures]
    for k, found in enumerate(together):
        np.testing.assert_allclose(found, np.concatenate([one[k] for one in alone]), rtol=1e-12, atol=1e-14)


def test_a_spin_of_zero_leaves_an_edge_of_length_zero():
    positions, types, cell, spins = structure(3)
    spins[0] = 0.0
    graph = spin_graph(positions, types, cell, SPEC, None, spins, SCALE)
    length = np.linalg.norm(graph.displacements, axis=1)
    pairs = {(int(i), int(j)) for i, j in zip(graph.center[length == 0], graph.neighbor[length == 0], strict=True)}
    assert pairs == {(0, 3), (3, 0)}


def test_two_atoms_at_one_place_are_refused():
    positions, types, cell, spins = structure(3)
    positions[2] = positions[1]
    with pytest.raises(DataError, match="atoms 1 and 2 share the position"):
        spin_graph(positions, types, cell, SPEC, None, spins, SCALE)


def test_no_atoms():
    empty = np.zeros((0, 3)), np.zeros(0, dtype=int), None, np.zeros((0, 3))
    value, forces, magnetic, virial = derivatives(empty)
    assert value.tolist() == [0.0]
    assert forces.shape == magnetic.shape == (0, 3)
    np.testing.assert_array_equal(virial, np.zeros((1, 3, 3)))
