"""Embedding of the neighbours of each atom, and its moments with the environment matrix (spec dpa1.md §2).

DPA-1 puts attention between the two; without it they are the first part of DPA-2.
N atoms, E edges, M channels of the embedding, D width of the type vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.environment import Environment, Rows
from dpsim.nn.linear import EmbeddingNetwork, ResidualLayer
from dpsim.nn.message import message_sum
from dpsim.physics.neighborhood import Neighborhood


class Edges(NamedTuple):
    """Neighbours of all atoms: where they are, and of which type."""

    rows: Rows
    """Environment of each edge; the matrix is zero for excluded edges."""
    s: Tensor
    """(E,) switch; zero for excluded edges."""
    visible: Tensor | None
    """(E,) 1, and 0 for excluded edges; None if no pair of types is excluded."""
    neighbor_type: Tensor
    """(E,) type of the neighbour."""


class EmbeddedEdges(NamedTuple):
    """Neighbours of all atoms: where they are, and what the networks make of them."""

    rows: Rows
    """See `Edges`."""
    s: Tensor
    visible: Tensor | None
    g: Tensor
    """(E, M) embedding."""
    g_empty: Tensor
    """(n_types, M) embedding of a place without a neighbour, by the type of the centre."""


class NeighborEmbedding(nn.Module):
    """Embedding ``G`` of each neighbour from its distance and the types, and moments ``Q = Σ R ⊗ G / sel``.

    Places without a neighbour add to the moments where the mean of the environment is not zero: their row is the
    same for all atoms of a type, so they are counted instead of listed. Their embedding takes the zero vector as the
    type of the neighbour; DeePMD-kit takes the type of the first atom of the frame, so that the energy of models with
    both ``concat`` (or a strip network that is not smooth) and a mean depends there on the order of the atoms.

    Parameters
    ----------
    rcut, rcut_smth, protection
        Å; see `Environment`.
    sel
        Nominal number of neighbours.
    neuron
        Widths of the embedding network.
    tebd_dim
        Width of the type vectors.
    strip
        Types enter through a network of their own whose output multiplies that of the distance, instead of
        beside the distance.
    type_one_side
        The type of the centre does not enter.
    smooth
        With `strip`: what the types add fades out with the switch.
    exclude_types
        Unordered pairs of types whose edges count as zero rows.
    """

    hidden_pairs: Tensor

    def __init__(
        self,
        n_types: int,
        rcut: float,
        rcut_smth: float,
        sel: int,
        *,
        neuron: Sequence[int],
        tebd_dim: int,
        strip: bool,
        type_one_side: bool,
        smooth: bool,
        activation_function: str,
        resnet_dt: bool,
        protection: float = 0.0,
        exclude_types: Sequence[tuple[int, int]] = (),
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.sel, self.tebd_dim, self.strip, self.smooth = sel, tebd_dim, strip, smooth
        self.type_one_side, self.exclude_types = type_one_side, tuple(exclude_types)
        self.environment = Environment(n_types, rcut, rcut_smth, protection=protection, dtype=dtype)
        by_type = tebd_dim * (1 if type_one_side else 2)
        self.network = EmbeddingNetwork(
            1 if strip else 1 + by_type, neuron, activation_function, resnet_dt=resnet_dt, dtype=dtype
        )
        if strip:
            self.type_network = EmbeddingNetwork(by_type, neuron, activation_function, resnet_dt=resnet_dt, dtype=dtype)
        hidden = torch.zeros(n_types, n_types, dtype=dtype)
        for a, b in self.exclude_types:
            hidden[a, b] = hidden[b, a] = 1.0
        self.register_buffer("hidden_pairs", hidden, persistent=False)

    def forward(self, hood: Neighborhood, types: Tensor, more: Callable[[Edges], Tensor] | None = None) -> Tensor:
        """Moments ``(N, 4 + K, M)`` of the environment, and of further rows ``(E, K)`` if given.

        Parameters
        ----------
        types
            (n_types, D) vectors of the types.
        more
            Makes the further rows.
        """
        edges = self.edges(hood)
        further = None if more is None else more(edges)
        if isinstance(self.network, EmbeddingNetwork) and not self.strip and not self.network.first.copies:
            kinds, rows = self._kinds(hood, edges, types, self.network.first), _joined(edges, further)
            filled = self.network.outer_sum(edges.rows.radial, rows, hood.edge_ptr, hood.types, kinds)
            return self._with_vacant(hood, filled, self.network(self._empty_input(types)))
        return self.moments(hood, self.embed(hood, types, edges), further)

    def edges(self, hood: Neighborhood) -> Edges:
        """Environment of all edges."""
        rows, neighbor_type = self.environment(hood), hood.row_types.index_select(0, hood.neighbor)
        s, visible = rows.sw, None
        if self.exclude_types:
            pair = hood.types.index_select(0, hood.center) * len(self.hidden_pairs) + neighbor_type
            visible = 1.0 - self.hidden_pairs.flatten().index_select(0, pair)
            rows = rows._replace(matrix=rows.matrix * visible.unsqueeze(1))
            s = s * visible
        return Edges(rows, s, visible, neighbor_type)

    def embed(self, hood: Neighborhood, types: Tensor, edges: Edges | None = None) -> EmbeddedEdges:
        """Embedding of all edges."""
        edges = self.edges(hood) if edges is None else edges
        embed = self._stripped if self.strip else self._concatenated
        g, g_empty = embed(hood, edges, types)
        return EmbeddedEdges(edges.rows, edges.s, edges.visible, g, g_empty)

    def moments(self, hood: Neighborhood, edges: EmbeddedEdges, more: Tensor | None = None) -> Tensor:
        """Moments ``(N, 4 + K, M)`` of embedded edges."""
        filled = ops.edge_outer_sum(_joined(edges, more), edges.g, hood.edge_ptr, hood.types)
        return self._with_vacant(hood, filled, edges.g_empty)

    def _with_vacant(self, hood: Neighborhood, filled: Tensor, g_empty: Tensor) -> Tensor:
        """Moments from sums over edges: with those of empty places, and normalised."""
        vacant = (self.environment.empty.unsqueeze(2) * g_empty.unsqueeze(1)).index_select(0, hood.types)
        first = filled[:, :4] + vacant * self.vacancies(hood)[:, :, None]
        return (first if filled.shape[1] == 4 else torch.cat([first, filled[:, 4:]], dim=1)) / self.sel

    def vacancies(self, hood: Neighborhood) -> Tensor:
        """Number of places ``(N, 1)`` without a neighbour."""
        ones = self.environment.mean.new_ones(hood.center.shape[0], 1)
        return self.sel - ops.segment_sum(ones, hood.edge_ptr, hood.types)

    def _empty_input(self, types: Tensor) -> Tensor:
        """What enters the network for a place without a neighbour, by the type of the centre."""
        empty = torch.cat([self.environment.empty[:, :1], torch.zeros_like(types)], dim=1)
        return empty if self.type_one_side else torch.cat([empty, types], dim=1)

    def _kinds(self, hood: Neighborhood, edges: Edges, types: Tensor, first: ResidualLayer) -> tuple[Tensor, Tensor]:
        """For `EmbeddingNetwork.outer_sum`: a kind of edge is the types of both ends, or that of the neighbour."""
        n_types, width = types.shape
        weight = first.linear.weight
        before, kind = types @ weight[1 : 1 + width] + first.bias, edges.neighbor_type
        if self.type_one_side:
            return kind, before
        before = (types @ weight[1 + width :]).unsqueeze(1) + before
        return hood.types.index_select(0, hood.center) * n_types + kind, before.flatten(0, 1)

    def _concatenated(self, hood: Neighborhood, edges: Edges, types: Tensor) -> tuple[Tensor, Tensor]:
        """``Net([R; T_neighbour; T_centre])``: the first layer is a map of the distance plus one of each type."""
        x, neighbor_type = edges.rows.radial, edges.neighbor_type
        n_types, width = types.shape
        known = torch.cat([types, types.new_zeros(1, width)])
        empty = self._empty_input(types)
        first = self.network.layers[0]
        assert isinstance(first, ResidualLayer)
        assert first.linear.bias is not None
        if first.copies:  # the residual rule needs the input as a whole
            parts = [x.unsqueeze(1), ops.gather_rows(known, neighbor_type)]
            if not self.type_one_side:
                centers = ops.gather_rows(types, hood.types)
                parts.append(ops.segment_expand(centers, hood.edge_ptr, hood.center))
            return self.network(torch.cat(parts, dim=1)), self.network(empty)
        weight = first.linear.weight
        centers = first.linear.bias.expand(n_types, -1)
        if not self.type_one_side:
            centers = centers + types @ weight[1 + width :]
        _, g = message_sum(
            x.unsqueeze(1) @ weight[:1], ops.gather_rows(centers, hood.types), known @ weight[1 : 1 + width],
            torch.ones_like(x), hood.edge_ptr, neighbor_type, 0, first.phi,
        )  # fmt: skip
        for layer in self.network.layers[1:]:
            g = layer(g)
        return g, self.network(empty)

    def _stripped(self, hood: Neighborhood, edges: Edges, types: Tensor) -> tuple[Tensor, Tensor]:
        """``Net(R) (1 + σ Net_types(T))``, the second network once for every pair of types."""
        x, neighbor_type, n_types = edges.rows.radial, edges.neighbor_type, len(types)
        factors = self.type_factors(types)
        empty = self.network(self.environment.empty[:, :1])
        if self.type_one_side:
            pair, vacant = neighbor_type, factors[n_types:].expand(n_types, -1)
        else:
            pair = hood.types.index_select(0, hood.center) * (n_types + 1) + neighbor_type
            vacant = factors[n_types :: n_types + 1]
        factor = ops.gather_rows(factors, pair)
        if self.smooth:
            factor = factor * edges.s.unsqueeze(1)
        else:
            empty = empty + empty * vacant
        g = self.network(x.unsqueeze(1))
        return g + g * factor, empty

    def type_factors(self, types: Tensor) -> Tensor:
        """Output of the network of types, one row for each type of the neighbour, the last one of none.

        Two-sided: ``((n_types) (n_types + 1), M)``, that of centre a and neighbour b at ``a (n_types + 1) + b``.
        """
        n_types, width = types.shape
        known = torch.cat([types, types.new_zeros(1, width)])
        if self.type_one_side:
            return self.type_network(known)
        of_neighbor = known.repeat(n_types, 1)
        of_center = types.unsqueeze(1).expand(-1, n_types + 1, -1).reshape(-1, width)
        return self.type_network(torch.cat([of_neighbor, of_center], dim=1))


def _joined(edges: Edges | EmbeddedEdges, more: Tensor | None) -> Tensor:
    """All rows ``(E, 4 + K)`` that moments are made of."""
    return edges.rows.matrix if more is None else torch.cat([edges.rows.matrix, more], dim=1)
