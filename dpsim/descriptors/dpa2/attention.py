"""The two attentions of a DPA-2 layer (spec dpa2.md §5.3, §5.4), per real edge.

In smooth models an empty place of the neighbour list has the logit −20 and stays in the denominators, so these count
it: `empty` (N, 1) is the number of such places. N atoms, E edges, A pairs of edges of one atom, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.nn.linear import Linear
from dpsim.nn.norm import layer_norm
from dpsim.nn.softmax import segment_softmax
from dpsim.physics.neighborhood import Neighborhood

SHIFT = 20.0
"""Minus the logit of an empty place."""


class LocalAttention(nn.Module):
    """Attention of an atom to its neighbours.

    Keys and values are linear in the neighbour's features, so their maps are taken over to the atom: the query is
    mapped to the space of the features, and the values are mapped after the sum. Nothing but products with the
    features remains to be done for each edge.
    """

    def __init__(self, width: int, hidden: int, heads: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.width, self.hidden, self.heads = width, hidden, heads
        self.query = Linear(width, hidden * heads, bias=False, dtype=dtype)
        self.key_value = Linear(width, (hidden + width) * heads, bias=False, dtype=dtype)
        self.head = Linear(heads * width, width, dtype=dtype)

    def forward(self, g1: Tensor, gg: Tensor, sw: Tensor, hood: Neighborhood, empty: Tensor | None) -> Tensor:
        """Update ``(N, width)`` of the atoms.

        Parameters
        ----------
        g1, gg
            (N, width) features of the atoms and (E, width) of their neighbours.
        sw
            (E,) switch.
        empty
            (N, 1) number of empty places; None if the model is not smooth.
        """
        key_value = self.key_value.weight.view(self.width, self.hidden + self.width, self.heads)
        key, value = key_value[:, : self.hidden], key_value[:, self.hidden :]
        query = self.query(g1).view(-1, self.hidden, self.heads) / math.sqrt(self.hidden)
        z = _dot(torch.einsum("ndh,cdh->nhc", query, key), gg, hood.edge_ptr)
        s = sw.unsqueeze(1)
        if empty is not None:
            z = (z + SHIFT) * s - SHIFT
        p = segment_softmax(z, hood.edge_ptr, hood.types, empty, -SHIFT)
        if empty is not None:
            p = p * s
        mixed = torch.einsum("nhc,cvh->nhv", _sum(p, gg, hood), value)
        return self.head(mixed.reshape(-1, self.heads * self.width))


def _threes(x: Tensor) -> Iterator[Tensor]:
    """Columns (dimension 1) in groups of three, zeros appended as needed: what `dpsim.ops.edge_outer_sum` takes."""
    missing = -x.shape[1] % 3
    zeros = x.new_zeros(x.shape[0], missing, *x.shape[2:])
    yield from (torch.cat([x, zeros], dim=1) if missing else x).split(3, dim=1)  # type: ignore[no-untyped-call]


def _dot(t: Tensor, g: Tensor, ptr: Tensor) -> Tensor:
    """Products ``(E, H)`` of the rows ``(E, C)`` with the H rows ``(N, H, C)`` of their centre."""
    return torch.cat([ops.edge_outer_dot(three, g, ptr) for three in _threes(t)], dim=1)[:, : t.shape[1]]


def _sum(p: Tensor, g: Tensor, hood: Neighborhood) -> Tensor:
    """Sums ``(N, H, C)`` over the edges of a centre of ``p (E, H) ⊗ g (E, C)``."""
    parts = [ops.edge_outer_sum(three, g, hood.edge_ptr, hood.types) for three in _threes(p)]
    return torch.cat(parts, dim=1)[:, : p.shape[1]]


class PairAttention(nn.Module):
    """Attention of a pair of atoms to the other pairs of the same centre.

    Parameters
    ----------
    width
        Of the pairs' features.
    gate
        Multiply the logits by the product of the pairs' vectors.
    updates_g2, updates_h2
        What the attention is for: features, vectors or both.
    trainable_norm, eps
        Of the layer normalisation of the features' update.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        *,
        gate: bool,
        updates_g2: bool,
        updates_h2: bool,
        trainable_norm: bool,
        eps: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.width, self.hidden, self.heads, self.gate = width, hidden, heads, gate
        self.query_key = Linear(width, 2 * hidden * heads, bias=False, dtype=dtype)
        if updates_g2:
            self.value = Linear(width, width * heads, bias=False, dtype=dtype)
            self.head = Linear(width * heads, width, dtype=dtype)
            self.norm = nn.LayerNorm(width, eps=eps, dtype=dtype)
            self.norm.requires_grad_(trainable_norm)
        if updates_h2:
            self.vector_head = Linear(heads, 1, bias=False, dtype=dtype)

    def weights(
        self, g2: Tensor, products: Tensor, switch: Tensor | None, hood: Neighborhood, empty: Tensor | None
    ) -> Tensor:
        """Weight ``(A, H)`` with which each pair of edges enters the updates.

        Parameters
        ----------
        g2
            (E, width) features.
        products
            (A, 1) products of the vectors of both edges.
        switch
            (A, 1) products of the switches of both edges; None if the model is not smooth.
        empty
            (N, 1) number of empty places; None if the model is not smooth.
        """
        pairs = hood.pairs
        assert pairs is not None
        maps = self.query_key.weight.view(self.width, self.hidden, 2, self.heads).permute(2, 0, 3, 1)
        q, k = ((g2 @ one.reshape(self.width, -1)).view(-1, self.heads, self.hidden) for one in maps.unbind())
        z = ops.pair_dot(q / math.sqrt(self.hidden), k, hood.edge_ptr, pairs.ptr, pairs.ik)
        if self.gate:
            z = z * products
        if switch is None or empty is None:
            p = segment_softmax(z, pairs.ptr, g2)
        else:
            z = (z + SHIFT) * switch - SHIFT
            p = segment_softmax(z, pairs.ptr, g2, ops.segment_expand(empty, hood.edge_ptr, g2), -SHIFT) * switch
        return p * (products / math.sqrt(3.0))

    def feature_update(self, weights: Tensor, g2: Tensor, hood: Neighborhood) -> Tensor:
        """Update ``(E, width)`` of the features; the maps to values and from heads are one."""
        assert hood.pairs is not None
        value = self.value.weight.view(self.width, self.width, self.heads)
        head = self.head.weight.view(self.width, self.heads, self.width)
        both = torch.einsum("ich,cho->iho", value, head).reshape(self.width, -1)
        mapped = (g2 @ both).view(-1, self.heads, self.width)
        mixed = ops.pair_mix(weights, mapped, hood.edge_ptr, hood.pairs.ptr).sum(1)
        assert self.head.bias is not None
        norm = self.norm
        return layer_norm(mixed + self.head.bias, norm.weight, norm.bias, norm.eps)

    def vector_update(self, weights: Tensor, h2: Tensor, hood: Neighborhood) -> Tensor:
        """Update ``(E, 3)`` of the vectors."""
        assert hood.pairs is not None
        mixed = ops.pair_mix(self.vector_head(weights), h2.unsqueeze(1), hood.edge_ptr, hood.pairs.ptr)
        return mixed.squeeze(1)
