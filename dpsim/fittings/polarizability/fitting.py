"""The polarizability fitting net (spec fittings.md §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpsim.fittings.network import FittingNetwork, directions
from dpsim.fittings.polarizability.config import PolarizabilityFittingConfig
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.descriptors.described import Described


class PolarizabilityFitting(FittingNetwork):
    """Atomic polarizabilities ``(N, 3, 3)`` from the network's numbers P on the descriptor's directions r.

    ``Σ_m P_m r_m r_mᵀ`` with `fit_diag`, else ``rᵀ W r`` with ``W = (P + Pᵀ) / 2``.
    """

    scale: Tensor

    def __init__(
        self,
        config: PolarizabilityFittingConfig,
        n_types: int,
        dim_descriptor: int,
        dim_basis: int,
        *,
        mixed_types: bool,
    ) -> None:
        n_out = dim_basis if config.fit_diag else dim_basis**2
        super().__init__(config, n_types, dim_descriptor, n_out, mixed_types=mixed_types, own_bias=True)
        self.fit_diag, self.shift_diag, self.dim_basis = config.fit_diag, config.shift_diag, dim_basis
        scale = torch.tensor(config.scales(n_types), dtype=torch.float64)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, described: Described, hood: Neighborhood) -> Tensor:
        """Atomic polarizabilities ``(N, 3, 3)`` in the network's floating-point type."""
        r, scale = directions(described, self.dtype), self.scale.to(self.dtype).index_select(0, hood.types)
        rows = self.rows(described.features, hood) * scale.unsqueeze(1)
        if self.fit_diag:
            weighted = rows.unsqueeze(2) * r
        else:
            matrix = rows.reshape(-1, self.dim_basis, self.dim_basis)
            weighted = torch.bmm(0.5 * (matrix + matrix.transpose(1, 2)), r)
        return torch.bmm(r.transpose(1, 2), weighted)

    def with_bias(self, values: Tensor, bias: Tensor, std: Tensor, types: Tensor) -> Tensor:
        """With `shift_diag`, add the mean diagonal element of the bias ``(n_types, 3, 3)``, scaled as the network."""
        if not self.shift_diag:
            return values
        shift = bias.diagonal(dim1=1, dim2=2).mean(1) * self.scale
        identity = torch.eye(3, dtype=values.dtype, device=values.device)
        return values + shift.index_select(0, types).reshape(-1, 1, 1) * identity
