"""The fitting net of spin populations (spec fittings.md §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from dpsim.fittings.network import FittingNetwork
from dpsim.fittings.population.config import PopulationFittingConfig
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.descriptors.described import Described


class PopulationFitting(FittingNetwork):
    """Electrons ``(N, 2)`` of either spin at each atom."""

    def __init__(
        self, config: PopulationFittingConfig, n_types: int, dim_descriptor: int, *, mixed_types: bool
    ) -> None:
        super().__init__(config, n_types, dim_descriptor, 2, mixed_types=mixed_types, own_bias=True)

    def forward(self, described: Described, hood: Neighborhood) -> Tensor:
        """Electrons ``(N, 2)`` in the network's floating-point type."""
        return self.rows(described.features, hood)

    def with_bias(self, values: Tensor, bias: Tensor, std: Tensor, types: Tensor) -> Tensor:
        """The values as they are: populations are learned whole."""
        return values
