"""The energy fitting net (spec common.md §10, fittings.md §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpsim.fittings.energy.config import EnergyFittingConfig
from dpsim.fittings.network import FittingNetwork
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.descriptors.described import Described


class EnergyFitting(FittingNetwork):
    """Atomic energies ``(N,)`` in eV, without the output bias."""

    vacuum_by_type: Tensor

    def __init__(self, config: EnergyFittingConfig, n_types: int, dim_descriptor: int, *, mixed_types: bool) -> None:
        super().__init__(config, n_types, dim_descriptor, 1, mixed_types=mixed_types)
        flags = config.vacuum_types
        self.subtracts_vacuum = flags is not None and any(flags)
        everywhere = [True] * n_types if mixed_types else [bool(f) for f in flags or ()]
        if self.subtracts_vacuum:
            vacuum = torch.tensor(everywhere, dtype=self.dtype).unsqueeze(1)
            self.register_buffer("vacuum_by_type", vacuum, persistent=False)

    def evaluate(self, x: Tensor, types: Tensor) -> Tensor:
        """Rows ``(N, 1)``, without the network's value for a zero descriptor where that is asked for."""
        out = super().evaluate(x, types)
        if not self.subtracts_vacuum:
            return out
        bare = torch.cat([torch.zeros_like(x[:, : self.dim_descriptor]), x[:, self.dim_descriptor :]], dim=1)
        return out - super().evaluate(bare, types) * self.vacuum_by_type.index_select(0, types)

    def forward(self, described: Described, hood: Neighborhood) -> Tensor:
        """Atomic energies ``(N,)`` in the network's floating-point type."""
        return self.rows(described.features, hood).squeeze(1)
