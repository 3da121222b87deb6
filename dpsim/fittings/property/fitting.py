"""The property fitting net (spec fittings.md §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from dpsim.fittings.network import FittingNetwork
from dpsim.fittings.property.config import PropertyFittingConfig
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.descriptors.described import Described


class PropertyFitting(FittingNetwork):
    """Atomic shares ``(N, task_dim)`` in units of the output's deviation, without the output bias."""

    def __init__(self, config: PropertyFittingConfig, n_types: int, dim_descriptor: int, *, mixed_types: bool) -> None:
        super().__init__(config, n_types, dim_descriptor, config.task_dim, mixed_types=mixed_types, own_bias=True)
        self.distinguish_types = config.distinguish_types

    def forward(self, described: Described, hood: Neighborhood) -> Tensor:
        """Atomic shares ``(N, task_dim)`` in the network's floating-point type."""
        return self.rows(described.features, hood)

    def with_bias(self, values: Tensor, bias: Tensor, std: Tensor, types: Tensor) -> Tensor:
        """The values times the deviation ``(n_types, task_dim)``, plus the bias: of their types, or of the first."""
        if not self.distinguish_types:
            return values * std[:1] + bias[:1]
        return values * std.index_select(0, types) + bias.index_select(0, types)
