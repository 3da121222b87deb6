"""Learned vector for each element (spec common.md §9)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpsim.nn.linear import Linear


class TypeEmbedding(nn.Module):
    """One linear layer on the one-hot type, with the residual rule of the layers.

    The table is ``W`` in general, ``W + I`` if the width equals the number of types and ``W + [I, I]`` if it is
    twice that number.
    """

    identity: Tensor | None

    def __init__(self, type_map: Sequence[str], width: int, *, bias: bool = False, dtype: torch.dtype) -> None:
        super().__init__()
        n_types = len(type_map)
        self.linear = Linear(n_types, width, bias=bias, dtype=dtype)
        copies = width // n_types if width in (n_types, 2 * n_types) else 0
        identity = torch.eye(n_types, dtype=dtype).repeat(1, copies) if copies else None
        self.register_buffer("identity", identity, persistent=False)

    def table(self) -> Tensor:
        """Vectors ``(n_types, width)`` of all types."""
        table: Tensor = self.linear.weight
        if self.identity is not None:
            table = table + self.identity
        return table if self.linear.bias is None else table + self.linear.bias

    def forward(self, types: Tensor) -> Tensor:
        """Vectors ``(N, width)`` of the types ``(N,)``."""
        return self.table().index_select(0, types)
