"""Reciprocal Ewald sums against the sum as it is written, differentiation, and what symmetry asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dpsim.physics.ewald import COULOMB, grid, reciprocal, reciprocal_energy

BETA, SPACING = 0.4, 1.0
CELL = torch.tensor([[5.3, 0.2, 0.1], [0.3, 6.1, -0.4], [0.2, -0.3, 4.4]], dtype=torch.float64)


def charges_in(cell, n=7, seed=0):
    rng = np.random.default_rng(seed)
    positions = torch.from_numpy(rng.uniform(-1, 2, (n, 3))) @ cell
    return positions, torch.from_numpy(rng.normal(size=n))


def by_definition(positions, charges, cell):
    """Energy, forces and virial, all reciprocal vectors at once (spec fittings.md §5)."""
    sizes = []
    for vector in cell.numpy():
        n = math.ceil(np.linalg.norm(vector) / SPACING)
        sizes.append(n + n % 2)
    axes = [np.arange(-(n // 2), n // 2 + 1) for n in sizes]
    k = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    m = (k[np.any(k != 0, axis=1)] @ np.linalg.inv(cell.numpy()).T).astype(float)
    square = (m**2).sum(axis=1)
    kernel = np.exp(-(np.pi**2) * square / BETA**2) / square
    waves = np.exp(2j * np.pi * positions.numpy() @ m.T)
    q, structure = charges.numpy(), charges.numpy() @ waves
    factor = COULOMB / (2 * np.pi * abs(np.linalg.det(cell.numpy())))
    energy = factor * (kernel * abs(structure) ** 2).sum()
    forces = factor * 4 * np.pi * q[:, None] * ((kernel * (structure.conj() * waves).imag) @ m)
    shape = np.eye(3) - 2 * (1 + np.pi**2 * square / BETA**2)[:, None, None] * np.einsum(
        "ma,mb->mab", m, m
    ) / square[:, None, None]  # fmt: skip
    return energy, forces, factor * np.einsum("m,mab->ab", kernel * abs(structure) ** 2, shape)


@pytest.mark.parametrize("turned", [False, True])
def test_the_definition(turned):
    """A left-handed cell of the same lattice gives the same, as the volume is what counts."""
    cell = CELL[[1, 0, 2]] if turned else CELL
    positions, charges = charges_in(CELL)
    found = reciprocal(positions, charges, cell, SPACING, BETA)
    energy, forces, virial = by_definition(positions, charges, cell)
    assert found.energy.item() == pytest.approx(energy, rel=1e-13)
    np.testing.assert_allclose(found.forces.numpy(), forces, atol=1e-13)
    np.testing.assert_allclose(found.virial.numpy(), virial, atol=1e-13)
    assert found.energy.item() == pytest.approx(reciprocal(positions, charges, CELL, SPACING, BETA).energy.item())


def test_forces_and_virial_are_derivatives():
    positions, charges = charges_in(CELL, seed=1)
    moved, strain = positions.clone().requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deformation = (torch.eye(3, dtype=torch.float64) + strain).T
    energy = reciprocal_energy(moved @ deformation, charges, CELL @ deformation, SPACING, BETA)
    by_position, by_strain = torch.autograd.grad(energy, (moved, strain))
    found = reciprocal(positions, charges, CELL, SPACING, BETA)
    assert energy.item() == pytest.approx(found.energy.item(), rel=1e-13)
    torch.testing.assert_close(found.forces, -by_position, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.virial, -by_strain, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.virial, found.virial.T, rtol=1e-12, atol=1e-13)


def test_shares_add_up():
    found = reciprocal(*charges_in(CELL, seed=2), CELL, SPACING, BETA)
    assert found.atomic_energy.sum().item() == pytest.approx(found.energy.item(), rel=1e-14)
    torch.testing.assert_close(found.atomic_virial.sum(0), found.virial, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.forces.sum(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-13)


def test_images_and_translation_change_nothing():
    positions, charges = charges_in(CELL, seed=3)
    before = reciprocal(positions, charges, CELL, SPACING, BETA)
    shifts = torch.from_numpy(np.random.default_rng(0).integers(-3, 4, positions.shape).astype(float))
    for moved in (positions + shifts @ CELL, positions + torch.tensor([1.3, -0.2, 7.0], dtype=torch.float64)):
        after = reciprocal(moved, charges, CELL, SPACING, BETA)
        for a, b in zip(after, before, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_madelung_constant_of_rock_salt():
    """With the part in real space and the self-energy, which DPLR leaves to the short-range model."""
    a, beta = 5.64, 2.0
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    positions = torch.from_numpy(np.concatenate([fcc, fcc + np.array([0.5, 0, 0])]) * a)
    charges = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64)
    found = reciprocal(positions, charges, torch.eye(3, dtype=torch.float64) * a, 0.12, beta)
    self_energy = COULOMB * beta / math.sqrt(math.pi) * 8
    nearest = 0.0
    for shift in np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3):
        r = np.linalg.norm(positions.numpy()[:, None] - positions.numpy()[None] - shift * a, axis=2)
        with np.errstate(divide="ignore"):
            share = np.vectorize(math.erfc)(beta * r) / r
        nearest += COULOMB / 2 * np.where(r > 0, np.outer(charges, charges) * share, 0.0).sum()
    total = found.energy.item() + nearest - self_energy
    assert -total / 4 * (a / 2) / COULOMB == pytest.approx(1.747564594633, rel=1e-9)


@pytest.mark.parametrize(
    ("length", "spacing", "size"), [(4.0, 1.0, 4), (4.01, 1.0, 6), (5.0, 1.0, 6), (3.0, 2.0, 2), (0.5, 1.0, 2)]
)
def test_grid_is_even(length, spacing, size):
    assert grid(torch.eye(3, dtype=torch.float64) * length, spacing) == (size,) * 3


def test_grid_of_a_rotated_cell():
    """Lengths that are whole numbers stay so."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0])
        assert grid(torch.diag(torch.tensor([10.0, 4.0, 6.0], dtype=torch.float64)) @ turn, 1.0) == (10, 4, 6)
    assert grid(torch.eye(3, dtype=torch.float64) * 4.0000001, 1.0) == (6, 6, 6)


def test_no_charges():
    found = reciprocal(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.float64), CELL, 1.0, 0.4)
    assert found.energy.item() == 0.0
    assert found.forces.shape == (0, 3)
    assert not found.virial.any()
