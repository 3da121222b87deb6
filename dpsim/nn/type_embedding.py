"""Learned vector for each element (spec common.md §9)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dpsim.nn.electron_configuration import DIM, configuration_vector
from dpsim.nn.linear import Linear


class TypeEmbedding(nn.Module):
    """One linear layer on the one-hot type, with the residual rule of the layers.

    The table is ``W`` in general, ``W + I`` if the width equals the number of types and ``W + [I, I]`` if it is
    twice that number.

    Parameters
    ----------
    econf
        Take the electron configuration of each element (118 numbers) instead of the one-hot type, so that elements
        that are alike begin alike. The types must be symbols of elements.
    """

    inputs: Tensor | None
    identity: Tensor | None

    def __init__(
        self, type_map: Sequence[str], width: int, *, bias: bool = False, econf: bool = False, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.names = tuple(type_map)
        n_in = DIM if econf else len(type_map)
        inputs = torch.eye(n_in, dtype=dtype)
        if econf:
            inputs = torch.from_numpy(np.stack([configuration_vector(symbol) for symbol in type_map])).to(dtype)
        self.linear = Linear(n_in, width, bias=bias, dtype=dtype)
        copies = width // n_in if width in (n_in, 2 * n_in) else 0
        self.register_buffer("inputs", inputs if econf else None, persistent=False)
        self.register_buffer("identity", inputs.repeat(1, copies) if copies else None, persistent=False)

    def table(self) -> Tensor:
        """Vectors ``(n_types, width)`` of all types."""
        table: Tensor = self.linear.weight if self.inputs is None else self.inputs @ self.linear.weight
        if self.identity is not None:
            table = table + self.identity
        return table if self.linear.bias is None else table + self.linear.bias

    def forward(self, types: Tensor) -> Tensor:
        """Vectors ``(N, width)`` of the types ``(N,)``."""
        return self.table().index_select(0, types)
