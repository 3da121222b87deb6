"""Sum over pairs of neighbours, weighted by the product of their directions (spec classic.md §4).

``D_i = (1/sel²) Σ_jk θ_jk G_jk`` with ``θ_jk = R_ij·R_ik`` of the vector parts of the environment matrix, where

- ``concat``: ``G_jk = Net([θ_jk | T_j | T_k])``,
- ``strip``: ``G_jk = Net(θ_jk) (1 + σ_jk Net_strip([T_j | T_k]))`` with ``σ_jk = s_j s_k`` if smooth, else 1.

Empty places have no direction, as the mean of the vector part is zero: they add nothing. E edges, A pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.environment import Environment
from dpsim.descriptors.se_e3_tebd.config import SeE3TebdConfig
from dpsim.nn.linear import EmbeddingNetwork
from dpsim.physics.neighborhood import Neighborhood, Pairs


class ThreeBody(nn.Module):
    """Three-body embedding, as a descriptor of its own or as part of DPA-2."""

    def __init__(self, config: SeE3TebdConfig, n_types: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.environment = Environment(
            n_types, config.rcut, config.rcut_smth, protection=config.env_protection, dtype=dtype
        )
        types_width = 2 * config.tebd_dim
        strip = config.tebd_input_mode == "strip"
        self.network = self._network(1 if strip else 1 + types_width, dtype)
        self.type_network = self._network(types_width, dtype) if strip else None

    def _network(self, n_in: int, dtype: torch.dtype) -> EmbeddingNetwork:
        config = self.config
        return EmbeddingNetwork(
            n_in, config.neuron, config.activation_function, resnet_dt=config.resnet_dt, dtype=dtype
        )

    @property
    def dim_out(self) -> int:
        """Width of the output."""
        return self.config.neuron[-1]

    def forward(self, hood: Neighborhood, table: Tensor) -> Tensor:
        """Embedding ``(N, dim_out)`` of each atom; `table` (n_types, tebd_dim) holds the type embedding."""
        pairs, env = hood.pairs, self.environment(hood)
        assert pairs is not None
        vector = env.vector.unsqueeze(1)
        theta = ops.pair_dot(vector, vector, hood.edge_ptr, pairs.ptr, pairs.ik)  # (A, 1)
        types = hood.row_types.index_select(0, hood.neighbor)
        ptr = pairs.ptr.index_select(0, hood.edge_ptr)
        if self.type_network is None:
            total = self.concatenated(theta, table, types, pairs, ptr, hood.types)
        else:
            total = ops.edge_outer_sum(theta, self.stripped(theta, table, types, env.sw, pairs), ptr, hood.types)
        return total.squeeze(1) / self.config.sel**2

    def concatenated(
        self, theta: Tensor, table: Tensor, types: Tensor, pairs: Pairs, ptr: Tensor, like: Tensor
    ) -> Tensor:
        """Sum ``(N, 1, M)`` of ``θ G`` with a network that is given the types ``(E,)`` of both neighbours.

        What the first layer makes of the types is computed once for each two types, where the layer has no residual
        part.
        """
        n_types, width = table.shape
        first, types_jk = self.network.first, self._ordered(types, n_types, pairs)
        if first.copies:
            g = self.network(torch.cat([theta, ops.gather_rows(_of_pairs(table), types_jk)], dim=1))
            return ops.edge_outer_sum(theta, g, ptr, like)
        from_ij = table @ first.linear.weight[1 : 1 + width] + first.bias
        before = (from_ij.unsqueeze(1) + table @ first.linear.weight[1 + width :]).flatten(0, 1)
        return self.network.outer_sum(theta.squeeze(1), theta, ptr, like, (types_jk, before))

    def _ordered(self, types: Tensor, n_types: int, pairs: Pairs) -> Tensor:
        """Row ``(A,)`` of the types of both neighbours in `_of_pairs`."""
        return types.index_select(0, pairs.ij) * n_types + types.index_select(0, pairs.ik)

    def stripped(self, theta: Tensor, table: Tensor, types: Tensor, sw: Tensor, pairs: Pairs) -> Tensor:
        """``G`` (A, M) of a network of the angle, times a factor for each pair of types."""
        assert self.type_network is not None
        factors = self.type_network(_of_pairs(table))
        factor = ops.gather_rows(factors, self._ordered(types, table.shape[0], pairs))
        if self.config.smooth:
            sigma = ops.segment_expand(sw, pairs.ptr, pairs.ik) * ops.gather_rows(sw, pairs.ik)
            factor = factor * sigma.unsqueeze(1)
        return self.network(theta) * (1.0 + factor)


def _of_pairs(table: Tensor) -> Tensor:
    """Vectors of types j and k side by side, at row ``j · n_types + k``."""
    n_types = table.shape[0]
    return torch.cat([table.repeat_interleave(n_types, dim=0), table.repeat(n_types, 1)], dim=1)
