"""Electrostatics of smeared charges in a periodic cell: the reciprocal part of an Ewald sum (spec fittings.md §5).

``E = C/(2πV) Σ_m exp(−π²m²/β²)/m² |S(m)|²`` with ``S(m) = Σ_i q_i exp(2πi m·r_i)`` over the reciprocal vectors
``m = k · (cell⁻¹)ᵀ`` of a box of integers k. There is no part in real space and no self-energy: a short-range model
takes these in. Charges are in e. Q charges, K_d integers along a cell vector.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

COULOMB = 14.39964535475696995
"""e²/(4πε₀) in eV Å."""
_ROUNDING = 1e-12
"""Relative error of the length of a cell vector."""


class Reciprocal(NamedTuple):
    """Reciprocal energy of charges, and what follows from it."""

    energy: Tensor
    """() eV"""
    forces: Tensor
    """(Q, 3) eV/Å, at fixed positions of the other charges."""
    virial: Tensor
    """(3, 3) eV: −dE/dstrain where all charges move with the cell."""
    atomic_energy: Tensor
    """(Q,) eV: the share ``½ q φ`` of each charge."""
    atomic_virial: Tensor
    """(Q, 3, 3) eV: the share of each charge."""


def grid(cell: Tensor, spacing: float) -> tuple[int, int, int]:
    """Smallest even number of points along each cell vector at which they are at most `spacing` (Å) apart.

    A vector that is longer by rounding alone, as one of a rotated cell may be, counts as the whole number it is meant
    to be.
    """
    lengths = torch.linalg.vector_norm(cell.detach(), dim=1)
    sizes = [math.ceil(float(length) / spacing * (1 - _ROUNDING)) for length in lengths]
    return sizes[0] + sizes[0] % 2, sizes[1] + sizes[1] % 2, sizes[2] + sizes[2] % 2


def reciprocal_energy(positions: Tensor, charges: Tensor, cell: Tensor, spacing: float, beta: float) -> Tensor:
    """Energy () in eV, differentiable with respect to positions, charges and cell; see `reciprocal`."""
    waves = _Waves(positions, cell, grid(cell, spacing), beta)
    total = torch.zeros((), dtype=positions.dtype, device=positions.device)
    for k in waves.planes():
        structure = waves.structure(k, charges)
        total = total + waves.weight(k) * (waves.kernel(k) * structure.abs().square()).sum()
    return total * waves.prefactor


def reciprocal(positions: Tensor, charges: Tensor, cell: Tensor, spacing: float, beta: float) -> Reciprocal:
    """Energy, forces and virial.

    Parameters
    ----------
    positions
        (Q, 3) Å, float64, in any image.
    charges
        (Q,) e.
    cell
        (3, 3) Å, rows are vectors; left-handed ones too.
    spacing
        Å; along each cell vector there are K integers from −K/2 to K/2, K the smallest even number of at least its
        length over this.
    beta
        1/Å, inverse width of the smeared charges.
    """
    waves = _Waves(positions, cell, grid(cell, spacing), beta)
    potential = torch.zeros_like(charges)
    forces, virials = torch.zeros_like(positions), positions.new_zeros(len(charges), 9)
    for k in waves.planes():
        kernel, vectors = waves.weight(k) * waves.kernel(k), waves.vectors(k)
        field = (kernel * waves.structure(k, charges).conj()).unsqueeze(0)
        square = vectors.square().sum(-1).clamp(min=1e-300)
        shear = -2 * (1 + (math.pi / beta) ** 2 * square) / square
        stress = shear[..., None, None] * vectors.unsqueeze(-1) * vectors.unsqueeze(-2)
        stress = (stress + torch.eye(3, dtype=stress.dtype, device=stress.device)).reshape(*square.shape, 9)
        weights = torch.cat([field, field * vectors.movedim(-1, 0), field * stress.movedim(-1, 0)])
        sums = waves.at_charges(k, weights)
        potential = potential + sums[:, 0].real
        forces = forces + sums[:, 1:4].imag
        virials = virials + sums[:, 4:].real
    atomic = waves.prefactor * charges * potential
    virial = (waves.prefactor * charges.unsqueeze(1) * virials).reshape(-1, 3, 3)
    return Reciprocal(
        energy=atomic.sum(),
        forces=waves.prefactor * 4 * math.pi * charges.unsqueeze(1) * forces,
        virial=virial.sum(0),
        atomic_energy=atomic,
        atomic_virial=virial,
    )


class _Waves:
    """Plane waves at the charges, as products of one factor for each cell vector.

    The plane −k is the conjugate of the plane k, so that only those with a first integer of zero or more are summed,
    and the others counted twice: memory is that of one plane.
    """

    def __init__(self, positions: Tensor, cell: Tensor, sizes: tuple[int, int, int], beta: float) -> None:
        self.beta, self.inverse = beta, torch.linalg.inv(cell)
        self.prefactor = COULOMB / (2 * math.pi * torch.linalg.det(cell).abs())
        fractional = positions @ self.inverse
        self.integers = [
            torch.arange(-(size // 2), size // 2 + 1, dtype=cell.dtype, device=cell.device) for size in sizes
        ]
        angles = [2 * math.pi * fractional[:, d : d + 1] * self.integers[d] for d in range(3)]
        self.factors = [torch.complex(angle.cos(), angle.sin()) for angle in angles]

    def planes(self) -> range:
        """Places of the first integers that are zero or positive."""
        return range(len(self.integers[0]) // 2, len(self.integers[0]))

    def weight(self, k: int) -> float:
        """How often a plane counts."""
        return 1.0 if k == len(self.integers[0]) // 2 else 2.0

    def vectors(self, k: int) -> Tensor:
        """Reciprocal vectors ``(K_2, K_3, 3)`` of a plane, 1/Å."""
        second, third = torch.meshgrid(self.integers[1], self.integers[2], indexing="ij")
        whole = torch.stack([self.integers[0][k].expand_as(second), second, third], dim=-1)
        return whole @ self.inverse.T

    def kernel(self, k: int) -> Tensor:
        """``exp(−π²m²/β²)/m²`` of a plane ``(K_2, K_3)``, zero at the origin."""
        square = self.vectors(k).square().sum(-1)
        origin = square == 0
        safe = torch.where(origin, torch.ones_like(square), square)
        value = torch.exp(-((math.pi / self.beta) ** 2) * safe) / safe
        return torch.where(origin, torch.zeros_like(value), value)

    def structure(self, k: int, charges: Tensor) -> Tensor:
        """``S(m)`` of a plane ``(K_2, K_3)``."""
        first = (charges * self.factors[0][:, k]).unsqueeze(1)
        return (first * self.factors[1]).T @ self.factors[2]

    def at_charges(self, k: int, weights: Tensor) -> Tensor:
        """Sums over a plane ``(Q, n)`` of n weights ``(n, K_2, K_3)`` times the waves at each charge."""
        inner = torch.einsum("nab,qb->qna", weights, self.factors[2])
        return self.factors[0][:, k].unsqueeze(1) * torch.einsum("qna,qa->qn", inner, self.factors[1])
