"""The environment matrix: distances and directions to the neighbours, faded out and scaled (spec common.md §5).

``R_ij = w(r) [1/(r+p), d/(r+p)²]``, then ``(R_ij − mean) / stddev`` by the type of the centre. E edges.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.switch import exponential_switch, polynomial_switch


class Rows(NamedTuple):
    """Environment of each edge."""

    matrix: Tensor
    """(E, 4) scaled: radial and vector part; (E, 1) for purely radial environments."""
    sw: Tensor
    """(E,) switch."""
    r: Tensor
    """(E,) distance, Å."""
    d: Tensor
    """(E, 3) displacement, Å, in the floating-point type of the block."""

    @property
    def radial(self) -> Tensor:
        """(E,) first column."""
        return self.matrix[:, 0]

    @property
    def vector(self) -> Tensor:
        """(E, 3) other columns."""
        return self.matrix[:, 1:]


class Environment(nn.Module):
    """Environment matrix of one list of edges.

    Parameters
    ----------
    rcut, rcut_smth
        Å; where the switch ends and begins.
    protection
        Å, added to distances.
    columns
        4, or 1 for the radial column alone.
    by_neighbor
        Scales for each type of neighbour: the buffers and `empty` have the type of the neighbour as another first
        axis, and a list holds neighbours of one type.
    """

    mean: Tensor
    """(n_types, columns)"""
    stddev: Tensor
    """(n_types, columns)"""

    def __init__(
        self,
        n_types: int,
        rcut: float,
        rcut_smth: float,
        *,
        protection: float = 0.0,
        columns: int = 4,
        exponential: bool = False,
        stddev: float = 1.0,
        by_neighbor: bool = False,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.rcut, self.rcut_smth, self.protection, self.columns = rcut, rcut_smth, protection, columns
        self.switch = exponential_switch if exponential else polynomial_switch
        self.form = ops.EXPONENTIAL if exponential else ops.POLYNOMIAL
        self.dtype = dtype
        shape = (n_types, n_types, columns) if by_neighbor else (n_types, columns)
        self.register_buffer("mean", torch.zeros(shape, dtype=dtype))
        self.register_buffer("stddev", torch.full(shape, stddev, dtype=dtype))

    @property
    def empty(self) -> Tensor:
        """(n_types, columns) row of a place without a neighbour, by the type of the centre."""
        return -self.mean / self.stddev

    def forward(self, hood: Neighborhood, neighbor_type: int | None = None) -> Rows:
        """Rows of all edges of a neighbourhood; with scales by neighbour give the type of all neighbours."""
        d = hood.displacements.to(self.dtype)
        mean, stddev = (s if neighbor_type is None else s[neighbor_type] for s in (self.mean, self.stddev))
        fade = ops.Fade(self.switch, self.form, self.rcut_smth, self.rcut, self.protection)
        matrix, sw, r = ops.environment(d, mean, 1.0 / stddev, hood.types, hood.edge_ptr, fade)
        return Rows(matrix, sw, r, d)
