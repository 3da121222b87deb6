"""What descriptors share without torch: where they keep numbers from the data, and how `sel` scales."""

from __future__ import annotations

import math
from typing import NamedTuple


def scaled_sel(sel: int, ratio: float) -> int:
    """Nominal number of neighbours where the cutoff is `ratio` times as long, at the same density."""
    return math.ceil(sel * ratio**3)


class EnvironmentBlock(NamedTuple):
    """One `dpsim.descriptors.environment.Environment` of a descriptor, and how its statistics are defined."""

    module: str
    """Path of the module within the descriptor, for example ``environment``."""
    path: tuple[int, ...]
    """Its list of edges: steps inwards from the descriptor's outermost one."""
    rcut: float
    rcut_smth: float
    """Å; the statistics use the polynomial switch, whatever the model uses."""
    sel: int
    """Nominal number of neighbours: empty places count as zeros."""
    protection: float = 0.0
    """Å, added to distances."""
    zero_mean: bool = True
    """Whether the mean stays zero; the deviation is about the true mean in any case."""
    constant_stddev: float = 0.0
    """Above zero: taken instead of the data's."""

    exclude_types: tuple[tuple[int, int], ...] = ()
    """Pairs of types that stand in the list but count as empty."""
    sel_of_each_type: bool = False
    """Whether `sel` is the number for each type of neighbour instead of all together."""
    rows: tuple[int, ...] = ()
    """Row of the module for each type of the model; empty: the same numbers."""

    def inside(self, module: str, *path: int) -> EnvironmentBlock:
        """The same block of a descriptor that is part of another."""
        return self._replace(module=f"{module}.{self.module}", path=(*path, *self.path))
