"""Second derivatives of the energy with respect to the positions, from the gradient of the edge vectors.

An edge vector is the difference of two positions, so ``∂²E/∂r_a∂r_b`` sums ``∂g_e/∂d_e'`` over the edges of either
atom, each with the sign of its end; all periodic images of an atom are moved together. A row of it is one
differentiation of the edge gradient along the edges of one atom. F frames, N atoms, E edges; a virtual atom of a spin
model moves with its atom, the spin stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpsim.physics.derivatives import forces_from_edges
from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import FrameGraph
from dpsim.physics.spin import real_rows

EDGES_AT_ONCE = 10_000
"""Copies of a frame are differentiated together up to about this many edges; it bounds the memory."""


class Bend:
    """The edge gradient of some frames, ready to be differentiated again.

    Parameters
    ----------
    gradient, displacements
        dE/dd (E, 3) with its graph, and the leaf (E, 3) that it was differentiated with respect to.
    n_types
        Types of real atoms; those from here on are virtual.
    create_graph
        Keep the graph of what is returned, so that a loss can be differentiated.
    """

    def __init__(
        self,
        gradient: Tensor,
        displacements: Tensor,
        hood: Neighborhood,
        n_frames: int,
        n_types: int,
        *,
        create_graph: bool = False,
    ) -> None:
        self.gradient, self.displacements, self.hood, self.create_graph = gradient, displacements, hood, create_graph
        self.atoms, self.virtual = real_rows(hood, n_types)
        self.counts = torch.bincount(hood.frame[self.atoms], minlength=n_frames)
        starts = torch.cumsum(self.counts, 0) - self.counts
        self.place = torch.empty_like(hood.types)
        number = torch.arange(len(self.atoms), device=hood.types.device) - starts[hood.frame[self.atoms]]
        self.place[self.atoms] = number
        if len(self.virtual):
            self.place[self.virtual] = number

    def row(self, moved: Tensor, axis: int) -> Tensor:
        """Derivatives (n, 3) of dE/dr with respect to one coordinate of one atom of each frame, eV/Å².

        Parameters
        ----------
        moved
            (F,) number of the atom within its frame; a frame that has no such atom gets zeros.
        axis
            0, 1 or 2.
        """
        if not self.gradient.requires_grad:  # no edge, or an energy that is linear in them
            return self.gradient.new_zeros((len(self.atoms), 3))
        hood, along = self.hood, (self.place == moved[self.hood.frame]).to(self.gradient.dtype)
        direction = torch.zeros_like(self.displacements)
        direction[:, axis] = along.index_select(0, hood.neighbor) - along.index_select(0, hood.center)
        (change,) = torch.autograd.grad(
            self.gradient, self.displacements, direction,
            retain_graph=True, create_graph=self.create_graph, materialize_grads=True,
        )  # fmt: skip
        rows = -forces_from_edges(change, hood)
        of_atoms = rows.index_select(0, self.atoms)
        return of_atoms + rows.index_select(0, self.virtual) if len(self.virtual) else of_atoms

    def matrices(self) -> list[Tensor]:
        """Hessian ``(3n, 3n)`` of each frame, coordinates in the order x, y, z of the first atom, of the next …"""
        sizes = self.counts.tolist()
        rows = [
            self.row(torch.full_like(self.counts, k), axis) for k in range(max(sizes, default=0)) for axis in range(3)
        ]
        if not rows:
            return [self.gradient.new_zeros((0, 0)) for _ in sizes]
        blocks = torch.stack(rows).split(sizes, dim=1)  # type: ignore[no-untyped-call]
        return [block[: 3 * n].reshape(3 * n, 3 * n) for block, n in zip(blocks, sizes, strict=True)]


def frame_hessian(
    atomic_energies: Callable[[Neighborhood], Tensor], graph: FrameGraph, n_types: int, device: str = "cpu"
) -> Tensor:
    """Hessian ``(3n, 3n)`` of one frame, eV/Å², float64 on the CPU.

    Several copies of the frame are differentiated at once, each with respect to another atom.

    Parameters
    ----------
    atomic_energies
        Gives energies (N,) in eV from a neighbourhood.
    n_types
        Types of real atoms.
    """
    n_atoms = int((graph.types < n_types).sum())
    if n_atoms == 0:
        return torch.zeros((0, 0), dtype=torch.float64)
    copies = max(1, min(n_atoms, EDGES_AT_ONCE // max(graph.n_edges, 1)))
    hood = collate([graph] * copies).to(device)
    leaf = hood.displacements.detach().requires_grad_(True)
    with torch.enable_grad():
        energy = atomic_energies(hood._replace(displacements=leaf)).sum()
        (gradient,) = torch.autograd.grad(energy, leaf, create_graph=True, materialize_grads=True)
        bend = Bend(gradient, leaf, hood, copies, n_types)
        rows = []
        for first in range(0, n_atoms, copies):
            moved = torch.arange(first, first + copies, device=leaf.device)
            columns = [bend.row(moved, axis).view(copies, n_atoms, 3) for axis in range(3)]
            rows.append(torch.stack(columns, dim=1).cpu())
    return torch.cat(rows)[:n_atoms].reshape(3 * n_atoms, 3 * n_atoms)
