"""What models of energies without a fitting net of their own share: output bias and excluded types."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dpsim.model.base import Model
from dpsim.physics.neighborhood import Neighborhood


class EnergyModel(Model):
    """Energies with an output bias ``(n_types,)``, both float64."""

    out_std: Tensor
    atom_weight: Tensor

    def add_output(self, n_types: int, excluded: Sequence[int]) -> None:
        """Make the buffers of the output bias and of the types without an energy."""
        self.register_buffer("out_bias", torch.zeros(n_types, dtype=torch.float64))
        self.register_buffer("out_std", torch.ones(n_types, dtype=torch.float64))
        weight = torch.ones(n_types, dtype=torch.float64)
        weight[list(excluded)] = 0.0
        self.register_buffer("atom_weight", weight, persistent=False)
        self.excludes = bool(excluded)

    def with_bias(self, energies: Tensor, hood: Neighborhood) -> Tensor:
        """Atomic energies ``(N,)`` with the output bias; zero for excluded types."""
        biased = energies + self.out_bias.index_select(0, hood.types)
        return biased * self.atom_weight.index_select(0, hood.types) if self.excludes else biased
