"""One layer of DPA-2 (spec dpa2.md §5): updates of atoms (g1), of pairs (g2) and of their vectors (h2).

N atoms, R feature rows, E edges, A pairs of edges of one atom. All updates of a layer read what entered it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.dpa2.attention import LocalAttention, PairAttention
from dpsim.descriptors.dpa2.config import RepformerConfig
from dpsim.nn.activation import Activation
from dpsim.nn.linear import Linear
from dpsim.physics.neighborhood import Neighborhood

Scale = Tensor | float
"""One number for all atoms, or ``(N, 1)``."""


class Geometry(NamedTuple):
    """What depends on positions only, shared by all layers."""

    hood: Neighborhood
    """The list of the layers."""
    sw: Tensor
    """(E,) switch."""
    weight: Tensor | None
    """(E, 1) weight of each edge in sums: the switch; None if the model is not smooth, where it is one."""
    mean: Scale
    """Turns a sum over neighbours into a mean."""
    symmetric: Scale
    """Factor of the product of two sums."""
    empty: Tensor | None
    """(N, 1) number of empty places; None if the model is not smooth."""
    pair_switch: Tensor | None
    """(A, 1) product of the switches of both edges; None if not smooth or if there are no pairs."""

    def weighted(self, x: Tensor) -> Tensor:
        """Rows ``(E, C)`` times the weight of their edge."""
        return x if self.weight is None else x * self.weight

    def symmetrized(self, moments: Tensor, axis: int) -> Tensor:
        """Invariants ``(N, axis·C)`` of sums over neighbours of ``vector ⊗ feature``, ``(N, 3, C)``."""
        product = moments[:, :, :axis].transpose(1, 2) @ moments
        return product.flatten(1) * (self.symmetric / 3.0)


class Features(NamedTuple):
    """State between layers."""

    g1: Tensor
    """(N, g1_dim)"""
    g2: Tensor
    """(E, g2_dim)"""
    h2: Tensor
    """(E, 3)"""
    vectors: Tensor
    """(E, 3) `h2` weighted."""
    products: Tensor | None
    """(A, 1) ``h2·h2`` of both edges; None if no layer has attention of pairs."""


def moved(h2: Tensor, geometry: Geometry, *, pairs: bool) -> tuple[Tensor, Tensor | None]:
    """Of vectors ``(E, 3)``: weighted ones, and the products of pairs of them if there is attention of pairs."""
    hood = geometry.hood
    products = None
    if pairs and hood.pairs is not None:
        rows = h2.unsqueeze(1)
        products = ops.pair_dot(rows, rows, hood.edge_ptr, hood.pairs.ptr, hood.pairs.ik)
    return geometry.weighted(h2), products


class RepformerLayer(nn.Module):
    """Updates the features of atoms and, in all layers but the last, those of pairs."""

    def __init__(self, config: RepformerConfig, phi: Activation, *, last: bool, dtype: torch.dtype) -> None:
        super().__init__()
        n1, n2 = config.g1_dim, config.g2_dim
        self.config, self.phi, self.last = config, phi, last
        self.linear1 = Linear(config.dim_invariants, n1, dtype=dtype)
        if config.g1_out_mlp:
            self.self_mlp = Linear(n1, n1, dtype=dtype)
        if config.update_g1_has_conv:
            shape = (n2, n1) if config.g1_out_conv else (n1, n2)
            self.conv = Linear(*shape, bias=False, dtype=dtype)
        if config.update_g1_has_attn:
            self.local_attention = LocalAttention(n1, config.attn1_hidden, config.attn1_nhead, dtype=dtype)
        attends = not last and config.has_pair_attention
        if not last:
            self.linear2 = Linear(n2, n2, dtype=dtype)
            if config.update_g2_has_g1g1:
                self.g1g1 = Linear(n1, n2, bias=False, dtype=dtype)
        if attends:
            self.pair_attention = PairAttention(
                n2, config.attn2_hidden, config.attn2_nhead, gate=config.attn2_has_gate,
                updates_g2=config.update_g2_has_attn, updates_h2=config.update_h2,
                trainable_norm=config.trainable_ln, eps=config.ln_eps, dtype=dtype,
            )  # fmt: skip
        counts = (
            1 + config.g1_out_mlp + (config.update_g1_has_conv and config.g1_out_conv) + config.update_g1_has_attn,
            0 if last else 1 + config.update_g2_has_g1g1 + config.update_g2_has_attn,
            int(config.update_h2 and not last),
        )
        residual = config.update_style == "res_residual"
        self.g1_residual, self.g2_residual, self.h2_residual = (
            nn.ParameterList(self._residual(width, dtype) for _ in range(count if residual else 0))
            for width, count in zip((n1, n2, 1), counts, strict=True)
        )

    def _residual(self, width: int, dtype: torch.dtype) -> nn.Parameter:
        draw = torch.randn if self.config.update_residual_init == "norm" else torch.ones
        return nn.Parameter((self.config.update_residual * draw(width, dtype=torch.float64)).to(dtype))

    def forward(self, old: Features, geometry: Geometry) -> Features:
        """Features of the next layer."""
        hood = geometry.hood
        rows = ops.halo_extend(old.g1, hood.row_types, hood.plan)
        gg = ops.gather_rows(rows, hood.neighbor)
        g1 = self.combine(old.g1, self.atom_updates(old, rows, gg, geometry), self.g1_residual)
        if self.last:
            return old._replace(g1=g1)
        return self.pair_channel(old, gg, geometry)._replace(g1=g1)

    def atom_updates(self, old: Features, rows: Tensor, gg: Tensor, geometry: Geometry) -> list[Tensor]:
        """Updates ``(N, g1_dim)`` of the atoms (§5.1); `rows` (R, g1_dim), `gg` (E, g1_dim) of the neighbours."""
        config, hood = self.config, geometry.hood
        updates, invariants = [], []
        if config.g1_out_mlp:
            updates.append(self.phi(self.self_mlp(old.g1)))
        else:
            invariants.append(old.g1)
        moments, convolved = self.sums(old, gg, geometry)
        if convolved is not None:
            updates.append(convolved * geometry.mean)
        elif config.update_g1_has_conv:
            convolved = geometry.weighted(old.g2) * ops.gather_rows(self.conv(rows), hood.neighbor)
            invariants.append(ops.segment_sum(convolved, hood.edge_ptr, hood.types) * geometry.mean)
        if config.update_g1_has_grrg:
            moments2 = ops.edge_outer_sum(old.vectors, old.g2, hood.edge_ptr, hood.types)
            invariants.append(geometry.symmetrized(moments2, config.axis_neuron))
        if moments is not None:
            invariants.append(geometry.symmetrized(moments, config.axis_neuron))
        updates.append(self.phi(self.linear1(torch.cat(invariants, dim=1))))
        if config.update_g1_has_attn:
            updates.append(self.local_attention(old.g1, gg, geometry.sw, hood, geometry.empty))
        return updates

    def sums(self, old: Features, gg: Tensor, geometry: Geometry) -> tuple[Tensor | None, Tensor | None]:
        """Sums over neighbours of their features: ``Σ vector ⊗ gg`` (N, 3, g1_dim) and ``Σ conv(g2) gg`` (N, g1_dim).

        None for what the layer does not use. Both are rows of ``Σ [vector | g2] ⊗ gg``, made together.
        """
        config, ptr, types = self.config, geometry.hood.edge_ptr, geometry.hood.types
        if not (config.update_g1_has_conv and config.g1_out_conv):
            return (ops.edge_outer_sum(old.vectors, gg, ptr, types) if config.update_g1_has_drrd else None), None
        g2 = geometry.weighted(old.g2)
        h = torch.cat([old.vectors, g2], dim=1) if config.update_g1_has_drrd else g2
        moments, convolved = ops.edge_convolution(h, gg, self.conv.weight, ptr, types)
        return moments if config.update_g1_has_drrd else None, convolved

    def pair_channel(self, old: Features, gg: Tensor, geometry: Geometry) -> Features:
        """Updated pairs (§5.2)."""
        config, hood = self.config, geometry.hood
        updates = [self.phi(self.linear2(old.g2))]
        if config.update_g2_has_g1g1:
            of_centers = ops.segment_expand(old.g1, hood.edge_ptr, gg)
            updates.append(self.g1g1(geometry.weighted(of_centers * gg)))
        new = old
        if config.has_pair_attention:
            attention = self.pair_attention
            assert old.products is not None
            weights = attention.weights(old.g2, old.products, geometry.pair_switch, hood, geometry.empty)
            if config.update_g2_has_attn:
                updates.append(attention.feature_update(weights, old.g2, hood))
            if config.update_h2:
                h2 = self.combine(old.h2, [attention.vector_update(weights, old.h2, hood)], self.h2_residual)
                vectors, products = moved(h2, geometry, pairs=True)
                new = new._replace(h2=h2, vectors=vectors, products=products)
        return new._replace(g2=self.combine(old.g2, updates, self.g2_residual))

    def combine(self, old: Tensor, updates: list[Tensor], residual: nn.ParameterList) -> Tensor:
        """Add updates to a feature in the configured style (§5.5)."""
        if self.config.update_style == "res_residual":
            for scale, update in zip(residual, updates, strict=True):
                old = old + scale * update
            return old
        total = updates[0]
        for update in updates[1:]:
            total = total + update
        if self.config.update_style == "res_avg":
            return (old + total) / math.sqrt(len(updates) + 1)
        return old + total / math.sqrt(len(updates))
