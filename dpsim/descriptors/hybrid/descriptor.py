"""A hybrid of descriptors (spec classic.md §5). N atoms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dpsim.descriptors.described import Described
from dpsim.descriptors.hybrid.config import HybridConfig
from dpsim.physics.neighborhood import Neighborhood


class Hybrid(nn.Module):
    """Features ``(N, D)`` of all members, one after the other, and likewise their directions."""

    def __init__(self, config: HybridConfig, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(members)

    @property
    def dim_out(self) -> int:
        """Width of the features."""
        return _total(self.members, "dim_out")

    @property
    def dim_basis(self) -> int:
        """Number of directions."""
        return _total(self.members, "dim_basis")

    def forward(self, hood: Neighborhood) -> Described:
        """Features ``(N, dim_out)`` and, if asked for, the basis ``(N, dim_basis, 3)``."""
        found: list[Described] = [member(hood.within(k)) for k, member in enumerate(self.members)]
        bases = [one.basis for one in found if one.basis is not None]
        features = torch.cat([one.features for one in found], dim=1)
        return Described(features, torch.cat(bases, dim=1) if bases else None)


def _total(members: nn.ModuleList, width: str) -> int:
    return sum(getattr(member, width) for member in members)
