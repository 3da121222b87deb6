"""The se_e2_r descriptor (spec classic.md §2).

N atoms, T types, M channels of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpsim.descriptors import typed
from dpsim.descriptors.described import Described
from dpsim.descriptors.se_e2_r.config import SeE2RConfig
from dpsim.descriptors.typed_config import places
from dpsim.physics.neighborhood import Neighborhood

_SCALE = 1 / 5  # part of the definition


class SeE2R(nn.Module):
    """Features ``(N, M)`` from a neighbourhood: the mean of the embeddings over all places."""

    def __init__(self, config: SeE2RConfig, n_types: int) -> None:
        super().__init__()
        self.config, self.n_types = config, n_types
        self.lists, self.n_places = config.lists(n_types), sum(places(config.sel, n_types))
        self.environment = typed.environment(config, n_types, columns=1)
        self.networks = typed.networks(config, n_types)
        self.places = typed.PlaceCounts(config, n_types)

    @property
    def dim_out(self) -> int:
        """Width of the features."""
        return self.config.neuron[-1]

    @property
    def dim_basis(self) -> int:
        """There are no directions."""
        return 0

    def forward(self, hood: Neighborhood) -> Described:
        """Features ``(N, dim_out)``."""
        total = self.unfilled(hood)
        for k, one in enumerate(self.lists):
            part = typed.part(hood, k)
            rows = self.environment(part, one.types[0])
            ones = torch.ones_like(rows.radial).unsqueeze(1)
            network = self.networks[one.network]
            total = total + typed.outer_sum(network, rows.radial, ones, part.edge_ptr, hood.types).squeeze(1)
        return Described(total * (_SCALE / self.n_places))

    def unfilled(self, hood: Neighborhood) -> Tensor:
        """What empty places and excluded neighbours add to the sum, ``(N, M)``: the network of their number."""
        empty, excluded = self.places(hood)
        total = empty.new_zeros(hood.n_atoms, self.dim_out)
        for t in range(self.n_types):
            numbers = self.environment.empty[t]
            if self.config.exclude_types:
                embedding = self.networks[t](torch.cat([numbers, torch.zeros_like(numbers[:1])]))
                total = total + excluded[:, t, None] * embedding[-1]
                embedding = embedding[:-1]
            else:
                embedding = self.networks[t](numbers)
            total = total + empty[:, t, None] * embedding.index_select(0, hood.types)
        return total
