"""The loc_frame descriptor (spec classic.md §6).

N atoms, E edges, T types, S slots of a centre.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.described import Described
from dpsim.descriptors.loc_frame.config import LocFrameConfig
from dpsim.physics.neighborhood import Neighborhood

_COLLINEAR = 1e-12  # squared sine below which two atoms span no plane


class LocFrame(nn.Module):
    """Features ``(N, 4 Σ sel_a + Σ sel_r)``: of each full slot ``1/r`` and the direction by distance in the local frame
    (third, first, second axis), of each radial one ``1/r``; zero where a slot is empty. Each is scaled by the type.

    Where an atom of the frame is missing, or both are in line with the centre, there are no directions.
    """

    mean: Tensor
    stddev: Tensor
    axes: Tensor
    first: Tensor
    full: Tensor

    def __init__(self, config: LocFrameConfig, n_types: int) -> None:
        super().__init__()
        self.config, self.n_types, self.layout = config, n_types, config.layout(n_types)
        self.dtype = torch.float32 if config.precision == "float32" else torch.float64
        self.register_buffer("mean", torch.zeros(n_types, self.dim_out, dtype=self.dtype))
        self.register_buffer("stddev", torch.ones(n_types, self.dim_out, dtype=self.dtype))
        self.register_buffer("axes", torch.tensor(config.axes(n_types)), persistent=False)
        first = [[self.layout.slot(radial, t, 0) for t in range(n_types)] for radial in (False, True)]
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.register_buffer("full", torch.tensor(self.layout.full), persistent=False)

    @property
    def dim_out(self) -> int:
        """Width of the features."""
        return 3 * self.layout.n_full + self.layout.n_slots

    @property
    def dim_basis(self) -> int:
        """There are no directions."""
        return 0

    def forward(self, hood: Neighborhood) -> Described:
        """Features ``(N, dim_out)``."""
        mean, stddev = (scale.index_select(0, hood.types) for scale in (self.mean, self.stddev))
        return Described((self.numbers(hood) - mean) / stddev)

    def numbers(self, hood: Neighborhood) -> Tensor:
        """Features ``(N, dim_out)`` before they are scaled."""
        n_slots, n_full = self.layout.n_slots, self.layout.n_full
        rows = hood.types.unsqueeze(1).expand(-1, n_slots).reshape(-1)
        place = hood.center * n_slots + self.slots(hood)
        d = hood.displacements.to(self.dtype)
        slots = ops.scatter_rows(d, place, rows)
        filled = ops.scatter_rows(torch.ones_like(d[:, :1]), place, rows)
        inverse = filled / torch.sqrt((slots * slots).sum(1, keepdim=True) + (1.0 - filled))
        axes = torch.arange(hood.n_atoms, device=d.device).unsqueeze(1) * n_slots + self.axes.index_select(
            0, hood.types
        )
        frame = self.frame(*(ops.gather_rows(slots, axes[:, k]) for k in (0, 1)))
        directions = (slots * inverse * inverse).reshape(-1, n_slots, 3)[:, :n_full] @ frame
        inverse = inverse.reshape(-1, n_slots, 1)
        full = torch.cat([inverse[:, :n_full], directions], dim=2)
        return torch.cat([full.flatten(1), inverse[:, n_full:, 0]], dim=1)

    def slots(self, hood: Neighborhood) -> Tensor:
        """Slot ``(E,)`` of each edge among those of its centre."""
        neighbor = hood.row_types.index_select(0, hood.neighbor)
        group = hood.center * self.n_types + neighbor
        rank = self._ranks(hood, group)
        full = self.full.index_select(0, neighbor)
        first, further = (row.index_select(0, neighbor) for row in self.first)
        return torch.where(rank < full, first + rank, further + rank - full)

    def _ranks(self, hood: Neighborhood, group: Tensor) -> Tensor:
        """Rank ``(E,)`` by distance of each edge among those of its group: centre and type of the neighbour."""
        d = hood.displacements.detach()
        order = torch.argsort((d * d).sum(1), stable=True)
        order = order.index_select(0, torch.argsort(group.index_select(0, order), stable=True))
        rows = hood.types.unsqueeze(1).expand(-1, self.n_types).reshape(-1)
        counts = ops.scatter_rows(torch.ones_like(d[:, :1]), group, rows).squeeze(1)
        start = (torch.cumsum(counts, 0) - counts).to(torch.int64)
        place = torch.argsort(order)  # the inverse of the permutation
        return place - start.index_select(0, group)

    def frame(self, a: Tensor, b: Tensor) -> Tensor:
        """Third, first and second axis as the columns of ``(N, 3, 3)``, from two vectors ``(N, 3)``; else zeros."""
        aa, bb, ab = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)
        spans = (aa * bb - ab * ab > _COLLINEAR * aa * bb).unsqueeze(1)
        # vectors that span a plane stand in, so that no derivative is infinite
        a = torch.where(spans, a, a.new_tensor([1.0, 0.0, 0.0]))
        b = torch.where(spans, b, b.new_tensor([0.0, 1.0, 0.0]))
        x = a / torch.linalg.vector_norm(a, dim=1, keepdim=True)
        y = b - (b * x).sum(1, keepdim=True) * x
        y = y / torch.linalg.vector_norm(y, dim=1, keepdim=True)
        frame = torch.stack([torch.linalg.cross(x, y), x, y], dim=2)
        return torch.where(spans.unsqueeze(2), frame, torch.zeros_like(frame))
