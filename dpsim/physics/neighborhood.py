"""`Neighborhood`: the tensors that enter every model, for any number of frames at once.

The order of its fields is the order of the inputs of a frozen model (format 1), shared with the C++ side.
N owned atoms, R feature rows (owned, then remote atoms of other ranks), E edges, B angle-edges, A angles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpsim.physics.neighbors import FrameGraph, row_pointers


class Neighborhood(NamedTuple):
    """Atoms and their edges, flat over all frames of a batch."""

    displacements: Tensor
    """(E, 3) float64, Å: neighbour minus centre, image included."""
    types: Tensor
    """(N,) int64"""
    row_types: Tensor
    """(R,) int64; the first N are `types`."""
    frame: Tensor
    """(N,) int64, the frame each atom belongs to."""
    center: Tensor
    """(E,) int64, ascending."""
    neighbor: Tensor
    """(E,) int64, a feature row."""
    edge_ptr: Tensor
    """(N + 1,) int64, CSR of `center`."""
    angle_edge: Tensor
    """(B,) int64, ascending indices of edges."""
    angle_ij: Tensor
    """(A,) int64, position in `angle_edge`; ascending."""
    angle_ik: Tensor
    """(A,) int64"""
    angle_ptr: Tensor
    """(B + 1,) int64, CSR of `angle_ij`."""
    plan: Tensor
    """(1,) int64 on the CPU: handle of the halo plan; 0 in a single process."""

    @property
    def n_atoms(self) -> int:
        """Number of owned atoms."""
        return self.types.shape[0]

    def to(self, device: torch.device | str) -> Neighborhood:
        """Copy to a device (the plan handle stays on the CPU)."""
        return Neighborhood._make([*(t.to(device, non_blocking=True) for t in self[:-1]), self.plan])


def collate(frames: Sequence[FrameGraph]) -> Neighborhood:
    """Join the graphs of frames of any size and composition into one `Neighborhood`."""
    sizes = np.array([f.n_atoms for f in frames], dtype=np.int64)
    atoms = np.concatenate([[0], np.cumsum(sizes)])
    edges = np.concatenate([[0], np.cumsum([f.n_edges for f in frames])]).astype(np.int64)
    angle_edges = np.concatenate([[0], np.cumsum([len(f.angle_edge) for f in frames])]).astype(np.int64)

    def join(name: str, offsets: np.ndarray | None = None) -> np.ndarray:
        parts = [getattr(f, name) for f in frames]
        return np.concatenate(parts if offsets is None else [p + o for p, o in zip(parts, offsets, strict=False)])

    center, ij = join("center", atoms), join("angle_ij", angle_edges)
    types = torch.from_numpy(join("types"))
    return Neighborhood(
        displacements=torch.from_numpy(join("displacements")),
        types=types,
        row_types=types,
        frame=torch.from_numpy(np.repeat(np.arange(len(frames), dtype=np.int64), sizes)),
        center=torch.from_numpy(center),
        neighbor=torch.from_numpy(join("neighbor", atoms)),
        edge_ptr=torch.from_numpy(row_pointers(center, int(atoms[-1]))),
        angle_edge=torch.from_numpy(join("angle_edge", edges)),
        angle_ij=torch.from_numpy(ij),
        angle_ik=torch.from_numpy(join("angle_ik", angle_edges)),
        angle_ptr=torch.from_numpy(row_pointers(ij, int(angle_edges[-1]))),
        plan=torch.zeros(1, dtype=torch.int64),
    )
