"""The standard model: descriptor, fitting net and output bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpsim.fittings import PropertyFittingConfig
from dpsim.model.base import Model
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.neighbors import ModelInputs

if TYPE_CHECKING:
    from dpsim.model.config import ModelConfig


class PotentialModel(Model):
    """Atomic outputs from a descriptor and a fitting net.

    ``out_bias`` is kept in float64 and added after the networks, so that total energies keep their digits
    whatever the precision of the networks.
    """

    out_std: Tensor
    atom_weight: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        n_types, fitting = len(config.type_map), config.fitting
        self.descriptor = config.descriptor.build(config.type_map, basis=fitting.needs_basis)
        self.fitting = fitting.build(
            n_types, self.descriptor.dim_out, self.descriptor.dim_basis, mixed_types=config.descriptor.mixed_types
        )
        self.output, self.output_shape = fitting.output, fitting.output_shape
        if isinstance(fitting, PropertyFittingConfig):
            self.intensive, self.property_name = fitting.intensive, fitting.property_name
        self.message_passing_layers = config.descriptor.message_passing_layers
        self.inputs = ModelInputs(
            fitting.numb_fparam,
            fitting.numb_aparam,
            config.descriptor.takes_charge_spin,
            fitting.default_fparam,
            config.descriptor.default_charge_spin,
        )
        self.register_buffer("out_bias", torch.zeros(n_types, *fitting.bias_shape, dtype=torch.float64))
        self.register_buffer("out_std", torch.ones(n_types, *fitting.bias_shape, dtype=torch.float64))
        weight = torch.ones(n_types, dtype=torch.float64)
        weight[list(config.atom_exclude_types)] = 0.0
        self.register_buffer("atom_weight", weight, persistent=False)

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Atomic outputs ``(N, *output_shape)``, float64, output bias included."""
        raw = self.fitting(self.descriptor(neighborhood), neighborhood).to(torch.float64)
        atomic = self.fitting.with_bias(raw, self.out_bias, self.out_std, neighborhood.types)
        if self.config.atom_exclude_types:
            weight = self.atom_weight.index_select(0, neighborhood.types)
            atomic = atomic * weight.reshape(-1, *[1] * len(self.output_shape))
        return atomic
