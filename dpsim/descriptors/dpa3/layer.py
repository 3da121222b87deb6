"""One layer of DPA-3 (spec dpa3.md §4), on flat edges and angles.

Linear maps of concatenated inputs are split, ``W[x|y] = W_x x + W_y y``, so that what depends on a node or an
edge only is computed once and gathered. What cannot reach the energy is not computed: the edge update of the
last layer and the angle update of the last two (spec §5.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.dpa3.config import RepFlowConfig
from dpsim.nn.activation import Activation
from dpsim.nn.linear import Linear
from dpsim.nn.message import linear_message_sum
from dpsim.physics.neighborhood import InnerList, Neighborhood


class Geometry(NamedTuple):
    """What depends on positions only, shared by all layers."""

    neighborhood: Neighborhood
    near: InnerList | None
    """Edges that form angles; None where there are no angles."""
    sw: Tensor
    """(E,) switch of the edges."""
    h_sw: Tensor
    """(E, 3) scaled edge vectors times the switch."""
    asw: Tensor
    """(A,) switch of the angles."""


class Line(NamedTuple):
    """A feature that is a straight line in one number: ``number ⊗ slope + start``.

    The features that enter the first layer are; a product with them is one with the number.
    """

    number: Tensor
    """(M, 1)"""
    slope: Tensor
    """(1, K)"""
    start: Tensor | None
    """(K,)"""

    def times(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What to multiply with what instead of the feature with `weight`, and what to add."""
        bias = bias if self.start is None else torch.addmv(bias, weight.t(), self.start)
        return self.number, self.slope @ weight, bias


class Features(NamedTuple):
    """State between layers."""

    node: Tensor
    """(N, n_dim)"""
    rows: Tensor | None
    """(R, n_dim): `node` and the same of remote atoms; None until they are exchanged."""
    edge: Tensor
    """(E, e_dim)"""
    angle: Tensor
    """(A, a_dim)"""
    edge_line: Line | None = None
    """`edge`, if it is one."""
    angle_line: Line | None = None
    """`angle`, if it is one."""


def side_by_side(first: Linear, second: Linear | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of one map that does the work of two (or one) with the same input."""
    assert first.bias is not None
    if second is None:
        return first.weight, first.bias
    assert second.bias is not None
    return torch.cat([first.weight, second.weight], dim=1), torch.cat([first.bias, second.bias])


class RepFlowLayer(nn.Module):
    """Updates node, edge and angle features from those of the previous layer."""

    def __init__(
        self, config: RepFlowConfig, phi: Activation, index: int, *, basis: bool = False, dtype: torch.dtype
    ) -> None:
        super().__init__()
        n, e, a = config.n_dim, config.e_dim, config.a_dim
        self.config, self.phi = config, phi
        sequential = config.sequential_update
        last = config.nlayers + basis  # directions need the edges of the last layer
        self.updates_edge = sequential or index < last - 1
        self.updates_angle = config.update_angle and (sequential or index < last - 2)
        self.node_self = Linear(n, n, dtype=dtype)
        self.node_sym = Linear(config.axis_neuron * (n + e), n, dtype=dtype)
        self.node_edge = Linear(2 * n + e, config.n_multi_edge_message * n, dtype=dtype)
        self.edge_self = Linear(2 * n + e, e, dtype=dtype)
        if config.update_angle:
            n_in, e_in = config.compressed_widths
            self.edge_angle1 = Linear(a + n_in + 2 * e_in, e, dtype=dtype)
            self.edge_angle2 = Linear(e, e, dtype=dtype)
            self.angle_self = Linear(a + n_in + 2 * e_in, a, dtype=dtype)
            if config.a_compress_rate and not config.a_compress_use_split:
                self.compress_node = Linear(n, n_in, bias=False, dtype=dtype)
                self.compress_edge = Linear(e, e_in, bias=False, dtype=dtype)
        counts = (2 + config.n_multi_edge_message, 1 + config.update_angle, int(config.update_angle))
        residual = config.update_style == "res_residual"
        self.node_residual, self.edge_residual, self.angle_residual = (
            nn.ParameterList(self._residual(width, dtype) for _ in range(count if residual else 0))
            for width, count in zip((n, e, a), counts, strict=True)
        )

    def _residual(self, width: int, dtype: torch.dtype) -> nn.Parameter:
        scale = self.config.update_residual
        draw = torch.randn if self.config.update_residual_init == "norm" else torch.ones
        noise = draw(width, dtype=torch.float64)
        return nn.Parameter((scale * noise).to(dtype))

    def forward(self, features: Features, geometry: Geometry) -> Features:
        """Features of the next layer."""
        rows = features.rows
        if rows is None:
            hood = geometry.neighborhood
            rows = ops.halo_extend(features.node, hood.row_types, hood.plan)
        features = features._replace(rows=rows)
        return (
            self._sequential(features, geometry)
            if self.config.sequential_update
            else self._parallel(features, geometry)
        )

    def _parallel(self, old: Features, geometry: Geometry) -> Features:
        angle, from_angles = old.angle, []
        if self.updates_edge and self.config.update_angle:
            angle_message, angle = self.angle_messages(old, geometry)
            from_angles = [self.edge_from_angles(angle_message, old.edge, geometry)]
        message, edge = self.edge_messages(old, geometry, from_angles)
        return Features(self.updated_node(old, old.edge, message, geometry), None, edge, angle)

    def _sequential(self, old: Features, geometry: Geometry) -> Features:
        _, edge = self.edge_messages(old, geometry)
        now = old._replace(edge=edge, edge_line=None)
        _, angle = self.angle_messages(now, geometry)
        angle_message, _ = self.angle_messages(now._replace(angle=angle, angle_line=None), geometry)
        edge = edge + self.edge_residual[1] * self.edge_from_angles(angle_message, edge, geometry)
        message, _ = self.edge_messages(now._replace(edge=edge), geometry)
        return Features(self.updated_node(old, edge, message, geometry), None, edge, angle)

    def updated_node(self, old: Features, edge: Tensor, message: Tensor, geometry: Geometry) -> Tensor:
        """New node features ``(N, n_dim)`` from self, symmetrised and edge messages (§4.1-4.3)."""
        node_self = self.phi(self.node_self(old.node))
        symmetric = self.phi(self.node_sym(self.symmetrized(old, edge, geometry)))
        messages = message.split(self.config.n_dim, dim=1)  # type: ignore[no-untyped-call]
        return self.combine(old.node, [node_self, symmetric, *messages], list(self.node_residual))

    def symmetrized(self, old: Features, edge: Tensor, geometry: Geometry) -> Tensor:
        """Invariants ``(N, axis_neuron·(e_dim + n_dim))`` of the environment (§4.2)."""
        hood, k_edge = geometry.neighborhood, self.config.normalizers[0]
        assert old.rows is not None
        of_edges = ops.edge_outer_sum(geometry.h_sw, edge, hood.edge_ptr, hood.types)  # (N, 3, d)
        of_nodes = ops.neighbor_outer_sum(geometry.h_sw, old.rows, hood.edge_ptr, hood.neighbor, hood.types)
        parts = [(hg[:, :, : self.config.axis_neuron].transpose(1, 2) @ hg).flatten(1) for hg in (of_edges, of_nodes)]
        return torch.cat(parts, dim=1) / (3.0 * k_edge)

    def edge_messages(self, old: Features, geometry: Geometry, others: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Message ``(N, H·n_dim)`` from edges to nodes (§4.3), and the edges with self and other updates."""
        hood, n = geometry.neighborhood, self.config.n_dim
        assert old.rows is not None
        weight, bias = side_by_side(self.node_edge, self.edge_self if self.updates_edge else None)
        w_edge = weight[2 * n :]
        edge, w_edge, bias = old.edge_line.times(w_edge, bias) if old.edge_line else (old.edge, w_edge, bias)
        update = _Update(self, old.edge, others, self.edge_residual) if self.updates_edge else None
        reduced, item = linear_message_sum(
            edge,
            w_edge,
            torch.addmm(bias, old.node, weight[:n]),
            old.rows @ weight[n : 2 * n],
            geometry.sw,
            hood.edge_ptr,
            hood.neighbor,
            self.node_edge.weight.shape[1],
            self.phi,
            *(update.fused if update else ()),
        )
        return reduced / self.config.normalizers[0], update.finished(item) if update else old.edge

    def angle_messages(self, old: Features, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Message ``(B, e_dim)`` from angles to edges, and the angles with their self update (§4.4)."""
        near, a = geometry.near, self.config.a_dim
        assert near is not None
        assert near.pairs is not None
        node, edge = self.compressed(old.node, ops.gather_rows(old.edge, near.edge))
        weight, bias = side_by_side(self.edge_angle1, self.angle_self if self.updates_angle else None)
        widths = [a, node.shape[1], edge.shape[1], edge.shape[1]]
        w_angle, w_node, w_ik, w_ij = weight.split(widths)  # type: ignore[no-untyped-call]
        angle, w_angle, bias = old.angle_line.times(w_angle, bias) if old.angle_line else (old.angle, w_angle, bias)
        center = geometry.neighborhood.center.index_select(0, near.edge)
        update = _Update(self, old.angle, (), self.angle_residual) if self.updates_angle else None
        reduced, item = linear_message_sum(
            angle,
            w_angle,
            torch.addmm(bias, edge, w_ij) + ops.gather_rows(node @ w_node, center),
            edge @ w_ik,
            geometry.asw,
            near.pairs.ptr,
            near.pairs.ik,
            self.edge_angle1.weight.shape[1],
            self.phi,
            *(update.fused if update else ()),
        )
        return reduced / math.sqrt(self.config.normalizers[1]), update.finished(item) if update else old.angle

    def compressed(self, node: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
        """Node and edge features as angle messages see them."""
        if self.config.a_compress_rate == 0:
            return node, edge
        if self.config.a_compress_use_split:
            n_in, e_in = self.config.compressed_widths
            return node[:, :n_in], edge[:, :e_in]
        return self.compress_node(node), self.compress_edge(edge)

    def edge_from_angles(self, message: Tensor, edge: Tensor, geometry: Geometry) -> Tensor:
        """Update ``(E, e_dim)`` of all edges from the message ``(B, e_dim)`` to the angle-edges."""
        assert geometry.near is not None
        angle_edge = geometry.near.edge
        linear = self.edge_angle2
        if self.config.smooth_edge_update:
            assert linear.bias is not None
            elsewhere = self.phi(linear.bias)
            return elsewhere + ops.scatter_rows(self.phi(linear(message)) - elsewhere, angle_edge, edge)
        seen = edge + ops.scatter_rows(message - ops.gather_rows(edge, angle_edge), angle_edge, edge)
        return self.phi(linear(seen))

    def combine(self, old: Tensor, updates: Sequence[Tensor], residual: Sequence[Tensor]) -> Tensor:
        """Add updates to a feature in the configured style (§4.5)."""
        if self.config.update_style == "res_residual":
            for scale, update in zip(residual, updates, strict=True):
                old = old + scale * update
            return old
        total = torch.stack(tuple(updates)).sum(0) if len(updates) > 1 else updates[0]
        if self.config.update_style == "res_avg":
            return (old + total) / math.sqrt(len(updates) + 1)
        return old + total / math.sqrt(len(updates))


class _Update:
    """Update of a feature whose first summand the fused operator makes, and adds by itself where the style lets it."""

    def __init__(
        self, layer: RepFlowLayer, old: Tensor, others: Sequence[Tensor], residual: Iterable[nn.Parameter]
    ) -> None:
        self.layer, self.old, self.others = layer, old, others
        self.fused: tuple[Tensor, ...] = ()
        if layer.config.update_style == "res_residual":
            first, *rest = residual
            self.fused = (layer.combine(old, others, rest[: len(others)]), first)

    def finished(self, item: Tensor) -> Tensor:
        """New feature, from what the operator returned."""
        return item if self.fused else self.layer.combine(self.old, [item, *self.others], ())
