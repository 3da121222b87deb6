"""The DPA-1 descriptor: embedding of the neighbours, attention among them, symmetrised product (spec dpa1.md §2, §5).

N atoms, E edges, M channels of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.described import Described
from dpsim.descriptors.dpa1.attention import AttentionLayer, gate_of
from dpsim.descriptors.dpa1.block import Edges, EmbeddedEdges, NeighborEmbedding
from dpsim.descriptors.dpa1.config import AttentionSettings
from dpsim.nn.linear import normal
from dpsim.nn.type_embedding import TypeEmbedding
from dpsim.physics.harmonics import solid_harmonics
from dpsim.physics.neighborhood import Neighborhood


class DPA1(nn.Module):
    """Features ``(N, neuron[-1] axis_neuron)`` from a neighbourhood, and the type vector of the centre if wanted.

    Parameters
    ----------
    basis
        Give the directions for fittings of vectors and tensors as well.
    """

    def __init__(self, config: AttentionSettings, type_map: Sequence[str], *, basis: bool = False) -> None:
        super().__init__()
        self.config, self.basis = config, basis
        self.dtype = torch.float32 if config.precision == "float32" else torch.float64
        self.type_embedding = TypeEmbedding(
            type_map, config.tebd_dim, bias=config.use_tebd_bias, econf=config.use_econf_tebd, dtype=self.dtype
        )
        self.embedding = NeighborEmbedding(
            len(type_map),
            config.rcut,
            config.rcut_smth,
            config.sel,
            neuron=config.neuron,
            tebd_dim=config.tebd_dim,
            strip=config.strip,
            type_one_side=config.type_one_side,
            smooth=config.smooth,
            activation_function=config.activation_function,
            resnet_dt=config.resnet_dt,
            protection=config.env_protection,
            exclude_types=config.exclude_types,
            dtype=self.dtype,
        )
        self.attention = nn.ModuleList(AttentionLayer(config, dtype=self.dtype) for _ in range(config.attn_layer))
        self.degree_gain = normal(config.lmax - 1, std=0.1, dtype=self.dtype) if config.lmax > 1 else None

    @property
    def dim_out(self) -> int:
        """Width of the features."""
        types = self.config.tebd_dim if self.config.concat_output_tebd else 0
        return self.config.neuron[-1] * self.config.axis_neuron + types

    @property
    def dim_basis(self) -> int:
        """Number of directions."""
        return self.config.neuron[-1]

    def forward(self, hood: Neighborhood) -> Described:
        """Features ``(N, dim_out)`` and, if asked for, the basis ``(N, dim_basis, 3)``."""
        types = self.type_embedding.table()
        moments = self.moments(hood, types)
        features = self.symmetrised(moments).flatten(1)
        if self.config.concat_output_tebd:
            features = torch.cat([features, types.index_select(0, hood.types)], dim=1)
        return Described(features, moments[:, 1:4].transpose(1, 2) if self.basis else None)

    def moments(self, hood: Neighborhood, types: Tensor) -> Tensor:
        """Moments ``(N, rows, M)``; `types` (n_types, tebd_dim) are the vectors of the types."""
        if not len(self.attention):
            more = None if self.degree_gain is None else partial(self.angular_rows, hood)
            out: Tensor = self.embedding(hood, types, more)
            return out
        edges = self.attended(hood, self.embedding.embed(hood, types))
        angular = None if self.degree_gain is None else self.angular_rows(hood, edges)
        return self.embedding.moments(hood, edges, angular)

    def attended(self, hood: Neighborhood, edges: EmbeddedEdges) -> EmbeddedEdges:
        """Edges with the embeddings after all attention layers."""
        config = self.config
        gate = gate_of(hood, edges, self.embedding.vacancies(hood), smooth=config.smooth, dotr=config.attn_dotr)
        for layer in self.attention:
            edges = layer(edges, gate)
        return edges

    def angular_rows(self, hood: Neighborhood, edges: Edges | EmbeddedEdges) -> Tensor:
        """Solid harmonics ``(E, Σ 2l + 1)`` of degrees 2 to lmax, with the weight of the edge."""
        environment, rows = self.embedding.environment, edges.rows
        protected = (rows.r + environment.protection).unsqueeze(1)
        scale = (1.0 / environment.stddev[:, :1]).index_select(0, hood.types)
        weight = edges.s.unsqueeze(1) / protected * ops.segment_expand(scale, hood.edge_ptr, hood.center)
        direction = rows.d / protected
        harmonics = [solid_harmonics(direction, degree) for degree in range(2, self.config.lmax + 1)]
        return torch.cat(harmonics, dim=1) * weight

    def symmetrised(self, moments: Tensor) -> Tensor:
        """Product ``(N, M, axis_neuron)`` of the moments ``(N, rows, M)`` with their first columns."""
        axis = moments[:, :, : self.config.axis_neuron]
        if self.degree_gain is not None:
            squares = self.degree_gain.square()
            rows = [moments.new_ones(4), *(g.expand(2 * degree + 1) for degree, g in enumerate(squares, 2))]
            axis = axis * torch.cat(rows).unsqueeze(1)
        return moments.transpose(1, 2) @ axis
