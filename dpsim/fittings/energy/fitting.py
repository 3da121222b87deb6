"""The energy fitting net (spec common.md §10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpsim.fittings.energy.config import EnergyFittingConfig
from dpsim.nn.linear import ResidualNetwork


class EnergyFitting(nn.Module):
    """Atomic energies ``(N,)`` in eV from descriptors ``(N, D)``, without the output bias.

    With ``mixed_types`` (descriptors that know the element of the centre) one network serves all types,
    otherwise each type has its own.
    """

    def __init__(self, config: EnergyFittingConfig, n_types: int, dim_descriptor: int, *, mixed_types: bool) -> None:
        super().__init__()
        self.config = config
        self.dtype = torch.float32 if config.precision == "float32" else torch.float64
        self.networks = nn.ModuleList(
            ResidualNetwork(
                dim_descriptor,
                config.neuron,
                1,
                config.activation_function,
                resnet_dt=config.resnet_dt,
                dtype=self.dtype,
            )
            for _ in range(1 if mixed_types else n_types)
        )

    def forward(self, descriptor: Tensor, types: Tensor) -> Tensor:
        """Atomic energies ``(N,)`` in the network's floating-point type."""
        descriptor = descriptor.to(self.dtype)
        if len(self.networks) == 1:
            return self.networks[0](descriptor).squeeze(1)
        total = descriptor.new_zeros(descriptor.shape[0])
        for index, network in enumerate(self.networks):
            total = torch.where(types == index, network(descriptor).squeeze(1), total)
        return total
