"""What a descriptor gives: features of each atom, and directions that turn with the structure."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Described(NamedTuple):
    """Output of a descriptor for N atoms."""

    features: Tensor
    """(N, D), the same in any orientation."""
    basis: Tensor | None = None
    """(N, M, 3) vectors that turn with the structure, for fittings of vectors and tensors; None if not asked for."""
