"""Forces and virial from the gradient of the energy with respect to the edge vectors.

With ``g_e = dE/dd_e``: ``F_i = Σ_{e: centre i} g_e − Σ_{e: neighbour i} g_e`` and the virial (−dE/dstrain)
is ``W_kl = −Σ_e g_e,k d_e,l`` (spec common.md §11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dpsim import ops
from dpsim.physics.neighborhood import Neighborhood


class Derivatives(NamedTuple):
    """Energies and their derivatives for the frames of one neighbourhood (F frames, N atoms, E edges)."""

    energy: Tensor
    """(F,) eV, float64."""
    forces: Tensor
    """(N, 3) eV/Å, float64."""
    virial: Tensor
    """(F, 3, 3) eV, float64."""
    atomic_energy: Tensor
    """(N,) eV, float64."""
    edge_gradient: Tensor
    """(E, 3) eV/Å."""
    magnetic_forces: Tensor | None = None
    """(N, 3) −dE/dspin, eV/μB, of spin models."""
    displacements: Tensor | None = None
    """(E, 3) leaf that `edge_gradient` was taken at, where its graph is kept."""
    hessian: Tensor | None = None
    """(Σ 9 n²,) eV/Å², the entries of the matrices of all frames, one behind the other; on request."""


def sum_by_frame(values: Tensor, frame: Tensor, n_frames: int) -> Tensor:
    """Sum rows ``(M, ...)`` that belong to the same frame; ``(n_frames, ...)``."""
    return values.new_zeros((n_frames, *values.shape[1:])).index_add(0, frame, values)


def forces_from_edges(gradient: Tensor, neighborhood: Neighborhood) -> Tensor:
    """Forces ``(N, 3)`` from the edge gradients ``(E, 3)`` in a single process."""
    from_centers = ops.segment_sum(gradient, neighborhood.edge_ptr)
    return from_centers - ops.scatter_rows(gradient, neighborhood.neighbor, neighborhood.types)


def energy_and_derivatives(
    atomic_energies: Callable[[Neighborhood], Tensor],
    neighborhood: Neighborhood,
    n_frames: int,
    *,
    create_graph: bool = False,
) -> Derivatives:
    """Evaluate a model and differentiate it once with respect to the edge vectors.

    Parameters
    ----------
    atomic_energies
        Gives ``(N,)`` eV from a neighbourhood.
    create_graph
        Keep the graph, so that a loss on forces and virial can be differentiated.
    """
    displacements = neighborhood.displacements.detach().requires_grad_(True)
    with torch.enable_grad():
        atomic = atomic_energies(neighborhood._replace(displacements=displacements))
        (gradient,) = torch.autograd.grad(atomic.sum(), displacements, create_graph=create_graph)
    if not create_graph:
        atomic = atomic.detach()
    frame_of_edge = neighborhood.frame.index_select(0, neighborhood.center)
    per_edge = (gradient.unsqueeze(2) * neighborhood.displacements.unsqueeze(1)).reshape(-1, 9)
    return Derivatives(
        energy=sum_by_frame(atomic, neighborhood.frame, n_frames),
        forces=forces_from_edges(gradient, neighborhood),
        virial=-sum_by_frame(per_edge, frame_of_edge, n_frames).reshape(-1, 3, 3),
        atomic_energy=atomic,
        edge_gradient=gradient,
        displacements=displacements if create_graph else None,
    )
