"""The DPA-2 descriptor (spec dpa2.md §3-6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.described import Described
from dpsim.descriptors.dpa1.block import NeighborEmbedding
from dpsim.descriptors.dpa2.config import DPA2Config
from dpsim.descriptors.dpa2.layer import Features, Geometry, RepformerLayer, Scale, moved
from dpsim.descriptors.environment import Environment, Rows
from dpsim.descriptors.se_e3_tebd.block import ThreeBody
from dpsim.nn.activation import activation
from dpsim.nn.linear import Linear
from dpsim.nn.type_embedding import TypeEmbedding
from dpsim.physics.neighborhood import Neighborhood

_EPSILON = 1e-4
"""Added to numbers of neighbours that sums are divided by."""


class DPA2(nn.Module):
    """Atom features ``(N, dim_out)`` from a neighbourhood.

    Parameters
    ----------
    basis
        Give the directions for fittings of vectors and tensors as well.
    """

    def __init__(self, config: DPA2Config, type_map: Sequence[str], *, basis: bool = False) -> None:
        super().__init__()
        first, layers, three_body = config.repinit, config.repformer, config.three_body
        self.config, self.basis = config, basis
        dtype = self.dtype = torch.float32 if config.precision == "float32" else torch.float64
        self.phi = activation(layers.activation_function)
        self.type_embedding = TypeEmbedding(
            type_map, first.tebd_dim, bias=config.use_tebd_bias, econf=config.use_econf_tebd, dtype=dtype
        )
        self.repinit = NeighborEmbedding(
            len(type_map), first.rcut, first.rcut_smth, first.nsel, neuron=first.neuron, tebd_dim=first.tebd_dim,
            strip=first.tebd_input_mode == "strip", type_one_side=first.type_one_side, smooth=config.smooth,
            activation_function=first.activation_function, resnet_dt=first.resnet_dt,
            protection=config.env_protection, exclude_types=config.exclude_types, dtype=dtype,
        )  # fmt: skip
        self.three_body = None if three_body is None else ThreeBody(three_body, len(type_map), dtype)
        self.shape = None
        if first.dim_out != layers.g1_dim:
            self.shape = Linear(first.dim_out, layers.g1_dim, bias=False, dtype=dtype)
            bound = math.sqrt(6.0 / (first.dim_out + layers.g1_dim))
            uniform = torch.rand(self.shape.weight.shape, dtype=torch.float64)  # the same numbers in every dtype
            self.shape.weight = nn.Parameter((bound * (2.0 * uniform - 1.0)).to(dtype))
        if config.add_tebd_to_repinit_out:
            self.tebd_transform = Linear(first.tebd_dim, layers.g1_dim, bias=False, dtype=dtype)
        self.environment = Environment(
            len(type_map), layers.rcut, layers.rcut_smth, protection=config.env_protection, dtype=dtype
        )
        self.g2_embedding = Linear(1, layers.g2_dim, dtype=dtype)
        self.layers = nn.ModuleList(
            RepformerLayer(layers, self.phi, last=index == layers.nlayers - 1, dtype=dtype)
            for index in range(layers.nlayers)
        )

    @property
    def dim_out(self) -> int:
        """Width of the features."""
        config = self.config
        return config.repformer.g1_dim + (config.repinit.tebd_dim if config.concat_output_tebd else 0)

    @property
    def dim_basis(self) -> int:
        """Number of directions."""
        return self.config.repformer.g2_dim

    def forward(self, neighborhood: Neighborhood) -> Described:
        """Features ``(N, dim_out)`` and, if asked for, the basis ``(N, dim_basis, 3)``."""
        table = self.type_embedding.table()
        near = neighborhood.within(0)
        env = self.environment(near)
        geometry = self.geometry(near, env)
        features = self.initial(self.atoms(neighborhood, table), env, geometry)
        for layer in self.layers:
            features = layer(features, geometry)
        out = features.g1
        if self.config.concat_output_tebd:
            out = torch.cat([out, table.index_select(0, neighborhood.types)], dim=1)
        return Described(out, self.directions(features, geometry) if self.basis else None)

    def atoms(self, hood: Neighborhood, table: Tensor) -> Tensor:
        """Features ``(N, g1_dim)`` of the atoms before their activation (§3); `table` is the type embedding."""
        moments = self.repinit(hood, table)
        axis = moments[:, :, : self.config.repinit.axis_neuron]
        u = (moments.transpose(1, 2) @ axis).flatten(1)
        if self.three_body is not None:
            u = torch.cat([u, self.three_body(hood.within(1), table)], dim=1)
        if self.shape is not None:
            u = self.shape(u)
        if self.config.add_tebd_to_repinit_out:
            u = u + self.tebd_transform(table).index_select(0, hood.types)
        return u

    def geometry(self, hood: Neighborhood, env: Rows) -> Geometry:
        """What all layers share: weights, normalisations, and the switch of pairs of edges."""
        layers, sw = self.config.repformer, env.sw
        counts = ops.segment_sum(torch.ones_like(sw).unsqueeze(1), hood.edge_ptr, hood.types)
        if not self.config.smooth:
            mean = 1.0 / (_EPSILON + counts)
            root: Scale = 1.0 / (_EPSILON + counts.sqrt()) if layers.use_sqrt_nnei else mean
            return Geometry(hood, sw, None, mean, root * root, None, None)
        n = float(layers.nsel)
        symmetric = 1.0 / (n if layers.use_sqrt_nnei else n * n)
        pair_switch = None
        if hood.pairs is not None:
            by_ij = ops.segment_expand(sw, hood.pairs.ptr, hood.pairs.ik)
            pair_switch = (by_ij * ops.gather_rows(sw, hood.pairs.ik)).unsqueeze(1)
        return Geometry(hood, sw, sw.unsqueeze(1), 1.0 / n, symmetric, n - counts, pair_switch)

    def initial(self, u: Tensor, env: Rows, geometry: Geometry) -> Features:
        """Features that enter the first layer (§4); `u` is what `atoms` gives."""
        layers = self.config.repformer
        scalar, h2 = env.radial, env.vector
        if layers.direct_dist:
            scalar, h2 = env.r / layers.rcut, env.d / layers.rcut
        g2 = self.phi(self.g2_embedding(scalar.unsqueeze(1)))
        vectors, products = moved(h2, geometry, pairs=layers.has_pair_attention)
        return Features(self.phi(u), g2, h2, vectors, products)

    def directions(self, features: Features, geometry: Geometry) -> Tensor:
        """Basis ``(N, g2_dim, 3)`` from the pairs after the last layer (§6)."""
        hood = geometry.hood
        moments = ops.edge_outer_sum(features.vectors, features.g2, hood.edge_ptr, hood.types)
        symmetric = geometry.symmetric
        scale = math.sqrt(symmetric) if isinstance(symmetric, float) else symmetric.sqrt().unsqueeze(1)
        return (moments * scale).transpose(1, 2)
