"""The fitting net of densities of states (spec fittings.md §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from dpsim.fittings.dos.config import DOSFittingConfig
from dpsim.fittings.network import FittingNetwork
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.descriptors.described import Described


class DOSFitting(FittingNetwork):
    """Atomic densities of states ``(N, numb_dos)``, without the output bias."""

    def __init__(self, config: DOSFittingConfig, n_types: int, dim_descriptor: int, *, mixed_types: bool) -> None:
        super().__init__(config, n_types, dim_descriptor, config.numb_dos, mixed_types=mixed_types)

    def forward(self, described: Described, hood: Neighborhood) -> Tensor:
        """Atomic densities ``(N, numb_dos)`` in the network's floating-point type."""
        return self.rows(described.features, hood)
