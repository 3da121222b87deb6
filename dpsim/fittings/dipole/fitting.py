"""The dipole fitting net (spec fittings.md §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from dpsim.fittings.dipole.config import DipoleFittingConfig
from dpsim.fittings.network import FittingNetwork, directions
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.descriptors.described import Described


class DipoleFitting(FittingNetwork):
    """Atomic dipoles ``(N, 3)``: a network's number for each direction of the descriptor, ``Σ_m F_m r_m``."""

    def __init__(
        self, config: DipoleFittingConfig, n_types: int, dim_descriptor: int, dim_basis: int, *, mixed_types: bool
    ) -> None:
        super().__init__(config, n_types, dim_descriptor, dim_basis, mixed_types=mixed_types, own_bias=True)

    def forward(self, described: Described, hood: Neighborhood) -> Tensor:
        """Atomic dipoles ``(N, 3)`` in the network's floating-point type."""
        weights = self.rows(described.features, hood)
        return (weights.unsqueeze(2) * directions(described, self.dtype)).sum(1)

    def with_bias(self, values: Tensor, bias: Tensor, std: Tensor, types: Tensor) -> Tensor:
        """The values as they are: a constant vector would not turn with the structure."""
        return values
