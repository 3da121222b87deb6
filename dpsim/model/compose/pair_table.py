"""`PairTable`: energies of pairs from a table (spec fittings.md §4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dpsim import ops
from dpsim.model.compose.base import EnergyModel
from dpsim.model.compose.table import pair_of_types, spline
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.model.compose.config import PairTableConfig


class PairTable(EnergyModel):
    """Half the energy of each pair to either atom, from cubic splines; always float64.

    Below the first distance of the table the energy is a straight line through its first two rows: a compiled graph
    cannot refuse a structure, and the spline, which is level at its end, would not keep the atoms apart.
    """

    coefficients: Tensor
    pair_of_types: Tensor

    def __init__(self, config: PairTableConfig) -> None:
        super().__init__(config)
        n_types, table = len(config.type_map), np.array(config.table, dtype=np.float64)
        self.rcut, self.shortest = config.rcut, float(table[0, 0])
        self.step, self.intervals = float(table[1, 0] - table[0, 0]), len(table) - 1
        self.end = self.shortest + self.intervals * self.step
        coefficients = torch.from_numpy(spline(table).reshape(-1, 4))
        pairs = torch.from_numpy(pair_of_types(n_types).reshape(-1))
        self.register_buffer("coefficients", coefficients, persistent=False)
        self.register_buffer("pair_of_types", pairs, persistent=False)
        self.add_output(n_types, config.atom_exclude_types)

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Atomic energies ``(N,)`` in eV, float64, output bias included."""
        energies = self.pair_energies(neighborhood)
        raw = 0.5 * ops.segment_sum(energies, neighborhood.edge_ptr, neighborhood.types)
        return self.with_bias(raw, neighborhood)

    def pair_energies(self, hood: Neighborhood) -> Tensor:
        """Energy ``(E,)`` of the pair of each edge, eV."""
        r = torch.linalg.vector_norm(hood.displacements, dim=1)
        u = (r - self.shortest) / self.step
        interval = u.detach().floor().clamp(0, self.intervals - 1)
        t = u - interval
        a, b, c, d = self._coefficients(hood, interval.to(torch.int64)).unbind(1)
        inside = ((a * t + b) * t + c) * t + d
        energies = torch.where(t < 0, d + (a + b + c) * t, inside)
        return torch.where(r < min(self.rcut, self.end), energies, torch.zeros_like(energies))

    def _coefficients(self, hood: Neighborhood, interval: Tensor) -> Tensor:
        """Spline coefficients ``(E, 4)``; no gradient reaches the displacements through them."""
        center = hood.types.index_select(0, hood.center)
        neighbor = hood.row_types.index_select(0, hood.neighbor)
        pair = self.pair_of_types.index_select(0, center * len(self.type_map) + neighbor)
        return self.coefficients.index_select(0, pair * self.intervals + interval)
