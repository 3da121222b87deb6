"""Attention of the neighbours of a centre to each other, gated by distances and angles (spec dpa1.md §3).

E edges, A pairs of edges of one centre, M channels of the embedding, d of the attention.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.dpa1.block import EmbeddedEdges
from dpsim.descriptors.dpa1.config import AttentionSettings
from dpsim.nn.linear import Linear
from dpsim.nn.norm import LayerNorm, unit_rows
from dpsim.nn.softmax import segment_softmax
from dpsim.physics.neighborhood import Neighborhood

_EMPTY_LOGIT = -20.0  # where the switch has faded out, and in empty places; part of the model's definition


class Gate(NamedTuple):
    """What the geometry says of each pair of edges (j, k), the same in all layers."""

    edge_ptr: Tensor
    pair_ptr: Tensor
    ik: Tensor
    """(A,) int64, edge k of each pair."""
    fade: Tensor | None
    """(A, 1) product of both switches, if smooth."""
    vacancies: Tensor | None
    """(E, 1) places of the centre without a neighbour, if smooth: they count in the softmax."""
    mask: Tensor | None
    """(A, 1) 0, and −inf where edge k is excluded, if not smooth."""
    factor: Tensor | None
    """(A, 1) of the weights after the softmax."""


def gate_of(hood: Neighborhood, edges: EmbeddedEdges, vacancies: Tensor, *, smooth: bool, dotr: bool) -> Gate:
    """Gate of all pairs.

    Parameters
    ----------
    vacancies
        (N, 1), see `NeighborEmbedding.vacancies`.
    smooth
        Weights fade out with the switches of both edges.
    dotr
        Weights are multiplied by the cosine of the angle between the edges' rows of the environment.
    """
    assert hood.pairs is not None
    pairs, vector, weight = hood.pairs, edges.rows.vector, edges.s if smooth else edges.visible
    fade = extra = mask = None
    if smooth:
        fade = _products(hood, edges.s.unsqueeze(1))
        extra = ops.segment_expand(vacancies, hood.edge_ptr, edges.g)
    elif edges.visible is not None:
        hidden = torch.zeros_like(edges.visible).masked_fill(edges.visible == 0, -math.inf)
        mask = hidden.index_select(0, pairs.ik).unsqueeze(1)
    factor = fade
    if dotr:
        assert vector is not None
        unit = unit_rows(vector)
        factor = _products(hood, unit if weight is None else unit * weight.unsqueeze(1))
    elif not smooth and weight is not None:
        factor = _products(hood, weight.unsqueeze(1))
    return Gate(hood.edge_ptr, pairs.ptr, pairs.ik, fade, extra, mask, factor)


def _products(hood: Neighborhood, x: Tensor) -> Tensor:
    """Product ``(A, 1)`` of the rows ``(E, K)`` of the two edges of each pair."""
    assert hood.pairs is not None
    rows = x.unsqueeze(1)
    return ops.pair_dot(rows, rows, hood.edge_ptr, hood.pairs.ptr, hood.pairs.ik)


class AttentionLayer(nn.Module):
    """One layer: ``G ← LN(G + Lin(Σ_k p_jk v_k))``, with q, k and v from G."""

    def __init__(self, config: AttentionSettings, *, dtype: torch.dtype) -> None:
        super().__init__()
        width, self.hidden = config.neuron[-1], config.attn
        self.normalize = config.normalize
        self.scale = config.temperature or 1.0 / math.sqrt(config.attn * config.scaling_factor)
        self.in_proj = Linear(width, 3 * config.attn, dtype=dtype)
        self.out_proj = Linear(config.attn, width, dtype=dtype)
        self.norm = LayerNorm(width, eps=config.ln_eps, trainable=config.trainable_ln, dtype=dtype)

    def forward(self, edges: EmbeddedEdges, gate: Gate) -> EmbeddedEdges:
        """Edges with the embeddings after this layer.

        An empty place gets nothing from the others, and gives nothing but its term in the softmax.
        """
        q, k, v = self.in_proj(edges.g).split(self.hidden, dim=1)
        if self.normalize:
            q, k, v = unit_rows(q), unit_rows(k), unit_rows(v)
        p = self.weights(q, k, gate)
        mixed = ops.pair_mix(p, v.unsqueeze(1), gate.edge_ptr, gate.pair_ptr).squeeze(1)
        bias = self.out_proj.bias
        assert bias is not None
        return edges._replace(g=self.norm(edges.g + self.out_proj(mixed)), g_empty=self.norm(edges.g_empty + bias))

    def weights(self, q: Tensor, k: Tensor, gate: Gate) -> Tensor:
        """Weights ``(A, 1)`` of the pairs from queries and keys ``(E, d)``."""
        z = ops.pair_dot((q * self.scale).unsqueeze(1), k.unsqueeze(1), gate.edge_ptr, gate.pair_ptr, gate.ik)
        if gate.fade is not None:
            z = (z - _EMPTY_LOGIT) * gate.fade + _EMPTY_LOGIT
        if gate.mask is not None:
            z = z + gate.mask
        p = segment_softmax(z, gate.pair_ptr, q, gate.vacancies, _EMPTY_LOGIT)
        return p if gate.factor is None else p * gate.factor
