"""Electrostatics of ions and of the charge centroids that their atoms carry (spec fittings.md §5).

Ions are where the atoms are, centroids displaced from them by dipoles that a network predicts. The energy is the
reciprocal part of an Ewald sum over both; what acts on a centroid acts on the atoms as its dipole follows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dpsim import ops
from dpsim.physics.derivatives import forces_from_edges
from dpsim.physics.ewald import Reciprocal, reciprocal
from dpsim.physics.neighborhood import Neighborhood


class SmearedCharges(NamedTuple):
    """Charges by type, and how their energy is summed."""

    ion: Tensor
    """(n_types,) e"""
    centroid: Tensor
    """(n_types,) e; 0 where atoms have none."""
    spacing: float
    """Å, see `dpsim.physics.ewald.reciprocal`."""
    beta: float
    """1/Å"""


class LongRange(NamedTuple):
    """Electrostatic energy of atoms and what follows from it; N atoms of all frames."""

    atomic_energy: Tensor
    """(N,) eV: the shares of an atom's ion and centroid."""
    forces: Tensor
    """(N, 3) eV/Å; centroids follow the atoms as their dipoles do."""
    atomic_virial: Tensor
    """(N, 3, 3) eV; the sum over a frame is −dE/dstrain."""


def electrostatics(
    neighborhood: Neighborhood,
    positions: Tensor,
    cells: Tensor,
    charges: SmearedCharges,
    dipoles: Tensor,
    pull: Callable[[Tensor], Tensor],
) -> LongRange:
    """Electrostatic part of periodic frames.

    Parameters
    ----------
    positions
        (N, 3) Å of the atoms of all frames, float64.
    cells
        (F, 3, 3) Å.
    dipoles
        (N, 3) Å, displacement of each atom's centroid, without a graph.
    pull
        From forces ``(N, 3)`` on the centroids the derivative ``(E, 3)`` of their work, ``Σ forces · dipoles``, with
        respect to the edge vectors.
    """
    ions, centroids = _sums(neighborhood, positions, cells, charges, dipoles)
    gradient = -pull(centroids.forces)
    by_edge = -(gradient.unsqueeze(2) * neighborhood.displacements.detach().unsqueeze(1))
    # the virial of the sums moves the centroids with the cell: what that adds to their dipoles is taken out
    stretched = centroids.forces.unsqueeze(2) * dipoles.unsqueeze(1)
    virial = ions.atomic_virial + centroids.atomic_virial - stretched
    return LongRange(
        atomic_energy=ions.atomic_energy + centroids.atomic_energy,
        forces=ions.forces + centroids.forces + forces_from_edges(gradient, neighborhood),
        atomic_virial=virial + ops.scatter_rows(by_edge, neighborhood.neighbor, neighborhood.types),
    )


def _sums(
    hood: Neighborhood, positions: Tensor, cells: Tensor, charges: SmearedCharges, dipoles: Tensor
) -> tuple[Reciprocal, Reciprocal]:
    """Ewald sums of all frames, their rows divided into those of ions and those of centroids."""
    ion, centroid = (by_type.index_select(0, hood.types) for by_type in (charges.ion, charges.centroid))
    found = []
    for f, cell in enumerate(cells):
        mine = hood.frame == f
        sites = torch.cat([positions[mine], positions[mine] + dipoles[mine]])
        found.append(reciprocal(sites, torch.cat([ion[mine], centroid[mine]]), cell, charges.spacing, charges.beta))
    return _joined(found, 0), _joined(found, 1)


def _joined(frames: list[Reciprocal], half: int) -> Reciprocal:
    """First or second half of the rows of each frame, all frames in one."""
    rows = []
    for frame in frames:
        n = len(frame.forces) // 2
        mine = slice(half * n, (half + 1) * n)
        rows.append((frame.forces[mine], frame.atomic_energy[mine], frame.atomic_virial[mine]))
    forces, energy, virial = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return Reciprocal(energy.sum(), forces, virial.sum(0), energy, virial)
