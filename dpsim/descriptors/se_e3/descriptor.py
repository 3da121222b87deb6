"""The se_e3 descriptor (spec classic.md §3).

N atoms, B edges of one list, A pairs of them, M channels of the embedding. Empty places and excluded neighbours have
no direction and add nothing.
"""

from __future__ import annotations

from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors import typed
from dpsim.descriptors.described import Described
from dpsim.descriptors.se_e3.config import SeE3Config
from dpsim.descriptors.typed_config import TypedList, places
from dpsim.physics.neighborhood import Neighborhood


class SeE3(nn.Module):
    """Features ``(N, M)`` from a neighbourhood."""

    def __init__(self, config: SeE3Config, n_types: int) -> None:
        super().__init__()
        self.config = config
        self.lists, self.sel = config.lists(n_types), places(config.sel, n_types)
        self.environment = typed.environment(config, n_types)
        self.networks = typed.networks(config, n_types * (n_types + 1) // 2)

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
        total = self.environment.mean.new_zeros(hood.n_atoms, self.dim_out)
        for k, one in enumerate(self.lists):
            a, b = one.types
            total = total + self.pair_sum(typed.part(hood, k), one) / (self.sel[a] * self.sel[b])
        return Described(total)

    def pair_sum(self, part: Neighborhood, one: TypedList) -> Tensor:
        """Sum ``(N, M)`` over pairs of a neighbour of one type and a neighbour of the other of ``θ Net(θ)``.

        The list holds all pairs of the neighbours of both types. Where a neighbour has not the type of its side of the
        pair its direction is taken as zero, so that θ is zero and the pair adds nothing.
        """
        a, b = one.types
        first = self.environment(part, a).vector
        if a == b:
            second = first
        else:
            is_first = (part.row_types.index_select(0, part.neighbor) == a).to(first.dtype).unsqueeze(1)
            second = self.environment(part, b).vector * (1.0 - is_first)
            first = first * is_first
        pairs = part.pairs
        assert pairs is not None
        theta = ops.pair_dot(first.unsqueeze(1), second.unsqueeze(1), part.edge_ptr, pairs.ptr, pairs.ij)
        ptr = pairs.ptr.index_select(0, part.edge_ptr)
        return typed.outer_sum(self.networks[one.network], theta.squeeze(1), theta, ptr, part.types).squeeze(1)
