"""What descriptors with networks for each type of neighbour share (spec classic.md §0).

N atoms, E edges, B edges of an inner list, T types, M channels of the embedding.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.environment import Environment
from dpsim.descriptors.typed_config import TypedSettings, places
from dpsim.nn.linear import EmbeddingNetwork
from dpsim.physics.neighborhood import Neighborhood


def dtype_of(config: TypedSettings) -> torch.dtype:
    """Floating-point type of a descriptor."""
    return torch.float32 if config.precision == "float32" else torch.float64


def environment(config: TypedSettings, n_types: int, columns: int = 4) -> Environment:
    """Environment with scales by the types of neighbour and centre."""
    return Environment(
        n_types,
        config.rcut,
        config.rcut_smth,
        protection=config.env_protection,
        columns=columns,
        by_neighbor=True,
        dtype=dtype_of(config),
    )


def networks(config: TypedSettings, count: int) -> nn.ModuleList:
    """Embedding networks of one number."""
    return nn.ModuleList(
        EmbeddingNetwork(
            1, config.neuron, config.activation_function, resnet_dt=config.resnet_dt, dtype=dtype_of(config)
        )
        for _ in range(count)
    )


class _Summing(Protocol):
    """An embedding network, or a table in its place."""

    def outer_sum(self, x: Tensor, rows: Tensor, ptr: Tensor, like: Tensor) -> Tensor:
        """See `dpsim.nn.linear.EmbeddingNetwork.outer_sum`."""


def outer_sum(network: nn.Module, x: Tensor, rows: Tensor, ptr: Tensor, like: Tensor) -> Tensor:
    """Sum over the items of each segment of ``rows ⊗ network(x)``, see `dpsim.nn.linear.EmbeddingNetwork.outer_sum`."""
    return cast("_Summing", network).outer_sum(x, rows, ptr, like)


def part(hood: Neighborhood, k: int) -> Neighborhood:
    """List `k` of `TypedSettings.lists`: an inner list, or the outer one where that is the only one."""
    return hood.within(k) if hood.inner else hood


class PlaceCounts(nn.Module):
    """How many of the places for each type of neighbour are empty, and how many are held by excluded ones.

    What an empty place adds depends on the types of neighbour and centre alone, so it is counted and not listed.
    """

    sel: Tensor
    hidden: Tensor

    def __init__(self, config: TypedSettings, n_types: int) -> None:
        super().__init__()
        self.lists, self.excludes, self.n_types = config.lists(n_types), bool(config.exclude_types), n_types
        sel = torch.tensor(places(config.sel, n_types), dtype=dtype_of(config))
        self.register_buffer("sel", sel, persistent=False)
        hidden = torch.zeros(n_types, n_types, dtype=sel.dtype)
        for a, b in config.exclude_types:
            hidden[a, b] = hidden[b, a] = 1.0
        self.register_buffer("hidden", hidden, persistent=False)

    def forward(self, hood: Neighborhood) -> tuple[Tensor, Tensor]:
        """Empty and excluded places, ``(N, T)`` each, by the type of the neighbour.

        The lists must be those of single types of neighbours (`TypedSettings.by_neighbor` or one for each pair).
        """
        excluded = self._excluded(hood)
        listed: list[Tensor] = [excluded[:, t] for t in range(self.n_types)]
        for k, one in enumerate(self.lists):
            ptr = hood.inner[k].edge_ptr if hood.inner else hood.edge_ptr
            edge = hood.inner[k].edge if hood.inner else hood.center
            ones = torch.ones_like(edge, dtype=self.sel.dtype).unsqueeze(1)
            listed[one.types[0]] = listed[one.types[0]] + ops.segment_sum(ones, ptr, hood.types).squeeze(1)
        return self.sel - torch.stack(listed, dim=1), excluded

    def _excluded(self, hood: Neighborhood) -> Tensor:
        by_type = hood.types.unsqueeze(1).expand(-1, self.n_types)
        if not self.excludes:
            return torch.zeros_like(by_type, dtype=self.sel.dtype)
        neighbor = hood.row_types.index_select(0, hood.neighbor)
        pair = hood.types.index_select(0, hood.center) * self.n_types + neighbor
        hidden = self.hidden.flatten().index_select(0, pair).unsqueeze(1)
        place = hood.center * self.n_types + neighbor
        return ops.scatter_rows(hidden, place, by_type.reshape(-1)).reshape(-1, self.n_types)
