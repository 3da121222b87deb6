"""The three-body embedding as a descriptor (spec classic.md §4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dpsim.descriptors.described import Described
from dpsim.descriptors.se_e3_tebd.block import ThreeBody
from dpsim.descriptors.se_e3_tebd.config import SeE3TebdConfig
from dpsim.nn.type_embedding import TypeEmbedding
from dpsim.physics.neighborhood import Neighborhood


class SeE3Tebd(nn.Module):
    """Features ``(N, dim_out)`` from the angles between neighbours."""

    def __init__(self, config: SeE3TebdConfig, type_map: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        dtype = torch.float32 if config.precision == "float32" else torch.float64
        self.type_embedding = TypeEmbedding(
            type_map, config.tebd_dim, bias=config.use_tebd_bias, econf=config.use_econf_tebd, dtype=dtype
        )
        self.three_body = ThreeBody(config, len(type_map), dtype)

    @property
    def dim_out(self) -> int:
        """Width of the features."""
        return self.three_body.dim_out + (self.config.tebd_dim if self.config.concat_output_tebd else 0)

    @property
    def dim_basis(self) -> int:
        """It gives no directions."""
        return 0

    def forward(self, neighborhood: Neighborhood) -> Described:
        """Features ``(N, dim_out)``."""
        table = self.type_embedding.table()
        features = self.three_body(neighborhood, table)
        if self.config.concat_output_tebd:
            features = torch.cat([features, table.index_select(0, neighborhood.types)], dim=1)
        return Described(features)
