"""`ZBLModel`: a learned model that gives way to a table where atoms come close (spec fittings.md §4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpsim import ops
from dpsim.model.compose.linear import CombinedModel
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.model.compose.config import ZBLModelConfig

SMALLEST = 1e-20
"""Below this the sum of weights of the soft minimum does not fall: the definition's guard against empty sums."""


class ZBLModel(CombinedModel):
    """``E_i = (1 − w_i) E_i^model + w_i E_i^table``, and the output bias of the sum."""

    def __init__(self, config: ZBLModelConfig) -> None:
        super().__init__(config)
        self.nearest_cutoff = config.nearest_cutoff

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Atomic energies ``(N,)`` in eV, float64, output bias included."""
        learned, table = self.member_energies(neighborhood)
        weight = self.table_weight(neighborhood)
        return self.with_bias((1 - weight) * learned + weight * table, neighborhood)

    def table_weight(self, hood: Neighborhood) -> Tensor:
        """Share ``(N,)`` of the table; zero for atoms without neighbours."""
        low, high = self.config.sw_rmin, self.config.sw_rmax
        distance = self.nearest_distance(hood)
        u = (distance - low) / (high - low)
        smooth = u**3 * (-6 * u**2 + 15 * u - 10) + 1
        one, zero = torch.ones_like(smooth), torch.zeros_like(smooth)
        weight = torch.where(distance < low, one, torch.where(distance < high, smooth, zero))
        return torch.where(distance == 0, zero, weight)

    def nearest_distance(self, hood: Neighborhood) -> Tensor:
        """Soft minimum ``(N,)`` of the distances of an atom's neighbours, Å; zero without neighbours."""
        r = torch.linalg.vector_norm(hood.displacements, dim=1)
        share = torch.exp(-r / self.config.smin_alpha)
        if self.nearest_cutoff < self.neighbors.cutoff:
            share = torch.where(r <= self.nearest_cutoff, share, torch.zeros_like(share))
        sums = ops.segment_sum(torch.stack([r * share, share], dim=1), hood.edge_ptr, hood.types)
        return sums[:, 0] / sums[:, 1].clamp(min=SMALLEST)
