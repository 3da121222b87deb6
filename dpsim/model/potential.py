"""A potential: descriptor, fitting net and output bias, summed to atomic energies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpsim.model.config import ModelConfig
from dpsim.physics.derivatives import Derivatives, energy_and_derivatives
from dpsim.physics.neighborhood import Neighborhood


class PotentialModel(nn.Module):
    """Atomic energies from a neighbourhood, and their derivatives.

    ``out_bias`` is kept in float64 and added after the networks, so that total energies keep their digits
    whatever the precision of the networks.
    """

    out_bias: Tensor
    energy_weight: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n_types = len(config.type_map)
        self.config = config
        self.neighbors = config.neighbors()
        self.descriptor = config.descriptor.build(n_types)
        self.fitting = config.fitting.build(n_types, self.descriptor.dim_out, mixed_types=True)
        self.register_buffer("out_bias", torch.zeros(n_types, dtype=torch.float64))
        weight = torch.ones(n_types, dtype=torch.float64)
        weight[list(config.atom_exclude_types)] = 0.0
        self.register_buffer("energy_weight", weight, persistent=False)

    @classmethod
    def initialized(cls, config: ModelConfig, seed: int) -> PotentialModel:
        """Model with parameters drawn from `seed`, without touching torch's own generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    @property
    def type_map(self) -> tuple[str, ...]:
        """Chemical symbols by type."""
        return self.config.type_map

    @property
    def precision(self) -> str:
        """Floating-point type that limits the digits: float32 if the descriptor or the fitting net is."""
        return min(self.config.descriptor.precision, self.config.fitting.precision)

    def with_precision(self, precision: str, fitting: str | None = None) -> PotentialModel:
        """Copy of the model whose networks compute in ``"float32"`` or ``"float64"``.

        Parameters
        ----------
        precision
            Of descriptor and fitting net.
        fitting
            Of the fitting net, if it is to differ.
        """
        config = self.config.model_copy(
            update={
                "descriptor": self.config.descriptor.model_copy(update={"precision": precision}),
                "fitting": self.config.fitting.model_copy(update={"precision": fitting or precision}),
            }
        )
        model = PotentialModel.initialized(config, 0).to(self.out_bias.device)
        model.load_state_dict(self.state_dict())
        return model

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Atomic energies ``(N,)`` in eV, float64, output bias included."""
        features = self.descriptor(neighborhood)
        atomic = self.fitting(features, neighborhood.types).to(torch.float64)
        atomic = atomic + self.out_bias.index_select(0, neighborhood.types)
        if self.config.atom_exclude_types:
            atomic = atomic * self.energy_weight.index_select(0, neighborhood.types)
        return atomic

    def derivatives(self, neighborhood: Neighborhood, n_frames: int, *, create_graph: bool = False) -> Derivatives:
        """Energies, forces and virials of the frames of a neighbourhood (single process)."""
        return energy_and_derivatives(self, neighborhood, n_frames, create_graph=create_graph)
