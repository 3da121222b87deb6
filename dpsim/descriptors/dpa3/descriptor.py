"""The DPA-3 descriptor: initial features, then a stack of layers (spec dpa3.md §2-4).

N atoms, R feature rows, E edges, B angle-edges, A angles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.described import Described
from dpsim.descriptors.dpa3.charge_spin import ChargeSpinEmbedding
from dpsim.descriptors.dpa3.config import DPA3Config
from dpsim.descriptors.dpa3.layer import Features, Geometry, Line, RepFlowLayer
from dpsim.descriptors.environment import Environment
from dpsim.nn.activation import activation
from dpsim.nn.linear import Linear
from dpsim.nn.type_embedding import TypeEmbedding
from dpsim.physics.neighborhood import InnerList, Neighborhood
from dpsim.physics.switch import exponential_switch, polynomial_switch

_COSINE_GUARD = 1e-6  # keeps the cosine inside (-1, 1) and its direction defined; part of the model's definition


class DPA3(nn.Module):
    """Node features ``(N, n_dim)`` from a neighbourhood.

    Parameters
    ----------
    basis
        Give the directions for fittings of vectors and tensors as well.
    """

    def __init__(self, config: DPA3Config, type_map: Sequence[str], *, basis: bool = False) -> None:
        super().__init__()
        flow = config.repflow
        self.config, self.basis = config, basis
        self.dtype = torch.float32 if config.precision == "float32" else torch.float64
        self.phi = activation(config.activation_function)
        self.type_embedding = TypeEmbedding(
            type_map, flow.n_dim, bias=config.use_tebd_bias, econf=config.use_econf_tebd, dtype=self.dtype
        )
        if config.add_chg_spin_ebd:
            self.charge_spin = ChargeSpinEmbedding(flow.n_dim, self.phi, dtype=self.dtype)
        self.edge_embedding = Linear(1, flow.e_dim, dtype=self.dtype)
        self.angle_embedding = Linear(1, flow.a_dim, bias=False, dtype=self.dtype)
        self.layers = nn.ModuleList(
            RepFlowLayer(flow, self.phi, layer, basis=basis, dtype=self.dtype) for layer in range(flow.nlayers)
        )
        self.environment = Environment(
            len(type_map),
            flow.e_rcut,
            flow.e_rcut_smth,
            protection=config.env_protection,
            exponential=flow.use_exp_switch,
            stddev=flow.fix_stat_std or 1.0,
            dtype=self.dtype,
        )

    @property
    def dim_out(self) -> int:
        """Width of the features."""
        return self.config.repflow.n_dim * (2 if self.config.concat_output_tebd else 1)

    @property
    def dim_basis(self) -> int:
        """Number of directions."""
        return self.config.repflow.e_dim

    def forward(self, neighborhood: Neighborhood) -> Described:
        """Features ``(N, dim_out)`` and, if asked for, the basis ``(N, dim_basis, 3)``."""
        geometry, features = self.initial(neighborhood)
        for layer in self.layers:
            features = layer(features, geometry)
        out = features.node
        if self.config.concat_output_tebd:
            out = torch.cat([out, self.row_inputs(neighborhood)[: neighborhood.n_atoms]], dim=1)
        return Described(out, self.directions(features.edge, geometry) if self.basis else None)

    def row_inputs(self, neighborhood: Neighborhood) -> Tensor:
        """What is known of each feature row before its neighbours, ``(R, n_dim)``."""
        rows: Tensor = self.type_embedding(neighborhood.row_types)
        return rows + self.charge_spin(neighborhood) if self.config.add_chg_spin_ebd else rows

    def directions(self, edge: Tensor, geometry: Geometry) -> Tensor:
        """Basis ``(N, e_dim, 3)`` from the edge features after the last layer (§4.7)."""
        hood, k_edge = geometry.neighborhood, self.config.repflow.normalizers[0]
        outer = ops.edge_outer_sum(geometry.h_sw, edge, hood.edge_ptr, hood.types)
        return outer.transpose(1, 2) / math.sqrt(k_edge)

    def initial(self, neighborhood: Neighborhood) -> tuple[Geometry, Features]:
        """Geometry shared by all layers, and the features that enter the first one."""
        flow = self.config.repflow
        env = self.environment(neighborhood)
        distance = (env.r if flow.edge_init_use_dist else env.radial).unsqueeze(1)
        edge = self.edge_embedding(distance)
        edge_line: Line | None = Line(distance, self.edge_embedding.weight, self.edge_embedding.bias)
        if not flow.edge_init_use_dist:
            edge, edge_line = self.phi(edge), None
        rows = self.phi(self.row_inputs(neighborhood))
        near = neighborhood.inner[0] if flow.update_angle else None
        cosine, asw = self.angles(near, env.d, env.r) if near else (distance[:0], env.r[:0])
        angle, angle_line = self.angle_embedding(cosine), Line(cosine, self.angle_embedding.weight, None)
        geometry = Geometry(neighborhood, near, env.sw, env.vector * env.sw.unsqueeze(1), asw)
        return geometry, Features(rows[: neighborhood.n_atoms], rows, edge, angle, edge_line, angle_line)

    def angles(self, near: InnerList, d: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled cosine ``(A, 1)`` and switch ``(A,)`` of each angle."""
        flow = self.config.repflow
        switch = exponential_switch if flow.use_exp_switch else polynomial_switch
        d, r = ops.gather_rows(d, near.edge), ops.gather_rows(r, near.edge)
        unit = d / (r + _COSINE_GUARD).unsqueeze(1)
        sw = switch(r, flow.a_rcut_smth, flow.a_rcut)
        assert near.pairs is not None
        ik, ptr = near.pairs.ik, near.pairs.ptr
        unit_ij = ops.segment_expand(unit, ptr, ik)
        cosine = (1 - _COSINE_GUARD) * (unit_ij * ops.gather_rows(unit, ik)).sum(1)
        asw = ops.segment_expand(sw, ptr, ik) * ops.gather_rows(sw, ik)
        return (cosine / math.sqrt(math.pi)).unsqueeze(1), asw
