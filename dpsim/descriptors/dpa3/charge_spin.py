"""Embedding of the total charge and the spin multiplicity of a frame (spec dpa3.md §2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpsim.nn.activation import Activation
from dpsim.nn.linear import Linear
from dpsim.nn.type_embedding import TypeEmbedding
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.neighbors import CHARGES, SPINS


class ChargeSpinEmbedding(nn.Module):
    """Vectors ``(R, width)`` that are the same for all atoms of a frame."""

    def __init__(self, width: int, phi: Activation, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.charge = TypeEmbedding([str(q) for q in CHARGES], width, dtype=dtype)
        self.spin = TypeEmbedding([str(s) for s in SPINS], width, dtype=dtype)
        self.mix = Linear(2 * width, width, dtype=dtype)
        self.phi = phi

    def forward(self, hood: Neighborhood) -> Tensor:
        """Vectors of all feature rows; remote rows exist only where there is a single frame, the first."""
        assert hood.charge_spin is not None, "the model takes charge and spin"
        numbers = hood.charge_spin.round().to(torch.int64)
        charge = self.charge((numbers[:, 0] - CHARGES[0]).clamp(0, len(CHARGES) - 1))
        spin = self.spin(numbers[:, 1].clamp(0, len(SPINS) - 1))
        of_frame = self.phi(self.mix(torch.cat([charge, spin], dim=1)))
        frame_of_row = torch.cat([hood.frame, torch.zeros_like(hood.row_types[hood.n_atoms :])])
        return of_frame.index_select(0, frame_of_row)
