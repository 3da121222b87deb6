"""The se_e2_a descriptor (spec classic.md §1).

N atoms, B edges of one list, T types, M channels of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpsim.descriptors import typed
from dpsim.descriptors.described import Described
from dpsim.descriptors.se_e2_a.config import SeE2AConfig
from dpsim.descriptors.typed_config import places
from dpsim.physics.neighborhood import Neighborhood


class SeE2A(nn.Module):
    """Features ``(N, M · axis_neuron)`` from a neighbourhood.

    Parameters
    ----------
    basis
        Give the directions for fittings of vectors and tensors as well.
    """

    def __init__(self, config: SeE2AConfig, n_types: int, *, basis: bool = False) -> None:
        super().__init__()
        self.config, self.n_types, self.basis = config, n_types, basis
        self.lists, self.n_places = config.lists(n_types), sum(places(config.sel, n_types))
        self.environment = typed.environment(config, n_types)
        self.networks = typed.networks(config, n_types if config.type_one_side else n_types**2)
        self.places = typed.PlaceCounts(config, n_types)

    @property
    def dim_out(self) -> int:
        """Width of the features."""
        return self.config.neuron[-1] * self.config.axis_neuron

    @property
    def dim_basis(self) -> int:
        """Number of directions."""
        return self.config.neuron[-1]

    def forward(self, hood: Neighborhood) -> Described:
        """Features ``(N, dim_out)`` and, if asked for, the basis ``(N, dim_basis, 3)``."""
        moments = self.vacant(hood)
        for k, one in enumerate(self.lists):
            part = typed.part(hood, k)
            rows = self.environment(part, one.types[0])
            network = self.networks[one.network]
            moments = moments + typed.outer_sum(network, rows.radial, rows.matrix, part.edge_ptr, hood.types)
        moments = moments / self.n_places
        features = moments.transpose(1, 2) @ moments[:, :, : self.config.axis_neuron]
        return Described(features.flatten(1), moments[:, 1:].transpose(1, 2) if self.basis else None)

    def vacant(self, hood: Neighborhood) -> Tensor:
        """What empty places add to the moments, ``(N, 4, M)``."""
        empty, _ = self.places(hood)
        total = empty.new_zeros(hood.n_atoms, 4, self.dim_basis)
        for t in range(self.n_types):
            rows = self.environment.empty[t]
            outer = rows.unsqueeze(2) * self.embedded(rows[:, :1], t).unsqueeze(1)
            total = total + empty[:, t, None, None] * outer.index_select(0, hood.types)
        return total

    def embedded(self, radial: Tensor, neighbor: int) -> Tensor:
        """Embedding ``(T, M)`` of one number for each type of the centre, ``(T, 1)``."""
        if self.config.type_one_side:
            out: Tensor = self.networks[neighbor](radial)
            return out
        rows = [
            self.networks[self.config.network(self.n_types, a, neighbor)](radial[a : a + 1])
            for a in range(self.n_types)
        ]
        return torch.cat(rows)
