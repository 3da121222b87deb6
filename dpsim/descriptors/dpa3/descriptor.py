"""The DPA-3 descriptor: initial features, then a stack of layers (spec dpa3.md §2-4).

N atoms, R feature rows, E edges, B angle-edges, A angles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.dpa3.config import DPA3Config
from dpsim.descriptors.dpa3.layer import Features, Geometry, RepFlowLayer
from dpsim.nn.activation import activation
from dpsim.nn.linear import Linear
from dpsim.nn.type_embedding import TypeEmbedding
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.switch import exponential_switch, polynomial_switch

_COSINE_GUARD = 1e-6  # keeps the cosine inside (-1, 1) and its direction defined; part of the model's definition


class DPA3(nn.Module):
    """Node features ``(N, n_dim)`` from a neighbourhood."""

    mean: Tensor
    """(n_types, 4) mean of the environment matrix; zero in trained models."""
    stddev: Tensor
    """(n_types, 4) scale of the environment matrix."""

    def __init__(self, config: DPA3Config, n_types: int) -> None:
        super().__init__()
        flow = config.repflow
        self.config = config
        self.dtype = torch.float32 if config.precision == "float32" else torch.float64
        self.phi = activation(config.activation_function)
        self.type_embedding = TypeEmbedding(n_types, flow.n_dim, bias=config.use_tebd_bias, dtype=self.dtype)
        self.edge_embedding = Linear(1, flow.e_dim, dtype=self.dtype)
        self.angle_embedding = Linear(1, flow.a_dim, bias=False, dtype=self.dtype)
        self.layers = nn.ModuleList(
            RepFlowLayer(flow, self.phi, layer, dtype=self.dtype) for layer in range(flow.nlayers)
        )
        self.register_buffer("mean", torch.zeros(n_types, 4, dtype=self.dtype))
        self.register_buffer("stddev", torch.full((n_types, 4), flow.fix_stat_std or 1.0, dtype=self.dtype))

    @property
    def dim_out(self) -> int:
        """Width of the output."""
        return self.config.repflow.n_dim * (2 if self.config.concat_output_tebd else 1)

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Features ``(N, dim_out)``."""
        geometry, features = self.initial(neighborhood)
        for layer in self.layers:
            features = layer(features, geometry)
        if not self.config.concat_output_tebd:
            return features.node
        return torch.cat([features.node, self.type_embedding(neighborhood.types)], dim=1)

    def initial(self, neighborhood: Neighborhood) -> tuple[Geometry, Features]:
        """Geometry shared by all layers, and the features that enter the first one."""
        flow = self.config.repflow
        switch = exponential_switch if flow.use_exp_switch else polynomial_switch
        d = neighborhood.displacements.to(self.dtype)
        r = torch.linalg.vector_norm(d, dim=1)
        sw = switch(r, flow.e_rcut_smth, flow.e_rcut)
        x, h = self.environment(neighborhood, d, r + self.config.env_protection, sw)
        edge = self.edge_embedding((r if flow.edge_init_use_dist else x).unsqueeze(1))
        if not flow.edge_init_use_dist:
            edge = self.phi(edge)
        rows = self.phi(self.type_embedding(neighborhood.row_types))
        angle, asw = self.initial_angles(neighborhood, d, r) if flow.update_angle else (edge[:0, :0], r[:0])
        geometry = Geometry(neighborhood, sw, h * sw.unsqueeze(1), asw)
        return geometry, Features(rows[: neighborhood.n_atoms], rows, edge, angle)

    def environment(self, neighborhood: Neighborhood, d: Tensor, r: Tensor, sw: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled radial ``(E,)`` and vector ``(E, 3)`` parts of the environment matrix; `r` includes the protection."""
        by_type = torch.cat([self.mean, 1.0 / self.stddev], dim=1).index_select(0, neighborhood.types)
        scale = ops.segment_expand(by_type, neighborhood.edge_ptr, neighborhood.center)
        x = (sw / r - scale[:, 0]) * scale[:, 4]
        h = ((sw / (r * r)).unsqueeze(1) * d - scale[:, 1:4]) * scale[:, 5:]
        return x, h

    def initial_angles(self, neighborhood: Neighborhood, d: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Angle features ``(A, a_dim)`` and the switch ``(A,)`` of each angle."""
        flow = self.config.repflow
        switch = exponential_switch if flow.use_exp_switch else polynomial_switch
        d, r = ops.gather_rows(d, neighborhood.angle_edge), ops.gather_rows(r, neighborhood.angle_edge)
        unit = d / (r + _COSINE_GUARD).unsqueeze(1)
        sw = switch(r, flow.a_rcut_smth, flow.a_rcut)
        ik = neighborhood.angle_ik
        unit_ij = ops.segment_expand(unit, neighborhood.angle_ptr, ik)
        cosine = (1 - _COSINE_GUARD) * (unit_ij * ops.gather_rows(unit, ik)).sum(1)
        asw = ops.segment_expand(sw, neighborhood.angle_ptr, ik) * ops.gather_rows(sw, ik)
        return self.angle_embedding((cosine / math.sqrt(math.pi)).unsqueeze(1)), asw
