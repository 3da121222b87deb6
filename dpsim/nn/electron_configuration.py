"""Ground-state electron configurations of the elements, and the vectors made of them (spec common.md §9).

The rule of Madelung fills subshells by n + l, then by n; the elements that break it are listed.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from dpsim.errors import ConfigError

SUBSHELLS: Final = (
    "1s", "2s", "2p", "3s", "3p", "3d", "4s", "4p", "4d", "4f", "5s", "5p", "5d", "5f", "6s", "6p", "6d", "7s", "7p",
)  # fmt: skip
"""Subshells in the order of the vector."""

EXCEPTIONS: Final = {
    "Cr": "[Ar] 3d5 4s1",
    "Cu": "[Ar] 3d10 4s1",
    "Nb": "[Kr] 4d4 5s1",
    "Mo": "[Kr] 4d5 5s1",
    "Ru": "[Kr] 4d7 5s1",
    "Rh": "[Kr] 4d8 5s1",
    "Pd": "[Kr] 4d10",
    "Ag": "[Kr] 4d10 5s1",
    "La": "[Xe] 5d1 6s2",
    "Ce": "[Xe] 4f1 5d1 6s2",
    "Gd": "[Xe] 4f7 5d1 6s2",
    "Pt": "[Xe] 4f14 5d9 6s1",
    "Au": "[Xe] 4f14 5d10 6s1",
    "Ac": "[Rn] 6d1 7s2",
    "Th": "[Rn] 6d2 7s2",
    "Pa": "[Rn] 5f2 6d1 7s2",
    "U": "[Rn] 5f3 6d1 7s2",
    "Np": "[Rn] 5f4 6d1 7s2",
    "Cm": "[Rn] 5f7 6d1 7s2",
    "Ds": "[Rn] 5f14 6d9 7s1",
    "Rg": "[Rn] 5f14 6d10 7s1",
}
"""Configurations that do not follow the rule (NIST; Ds and Rg as predicted)."""

_WIDTHS: Final = {"s": 1, "p": 3, "d": 5, "f": 7}
_MADELUNG: Final = sorted(SUBSHELLS, key=lambda name: (int(name[0]) + "spdf".index(name[1]), int(name[0])))
DIM: Final = 2 * sum(_WIDTHS[name[1]] for name in SUBSHELLS)
"""Length of a vector: two spins of 59 orbitals."""


def occupations(symbol: str) -> dict[str, int]:
    """Number of electrons in each subshell that has any, for example ``{"1s": 2, "2s": 1}``.

    Raises
    ------
    ConfigError
        If the symbol is not one of the 118 elements.
    """
    if symbol in EXCEPTIONS:
        core, *outer = EXCEPTIONS[symbol].split()
        return occupations(core.strip("[]")) | {part[:2]: int(part[2:]) for part in outer}
    left, filled = _atomic_number(symbol), {}
    for name in _MADELUNG:
        if left > 0:
            filled[name] = min(left, 2 * _WIDTHS[name[1]])
            left -= filled[name]
    return filled


def _atomic_number(symbol: str) -> int:
    from ase.data import atomic_numbers

    number: int = atomic_numbers.get(symbol, 0)
    if number < 1:
        raise ConfigError(
            f"use_econf_tebd: type {symbol!r} is no chemical element, so that it has no electron configuration: "
            "name the types by element symbols, or set use_econf_tebd: false"
        )
    return number


def configuration_vector(symbol: str) -> npt.NDArray[np.float64]:
    """Vector (118,) of length one: two numbers an orbital, +1 where there is an electron and −1 where there is none.

    Within a subshell pairs of electrons come first, then single ones (−1, 1), then empty orbitals.
    """
    filled = occupations(symbol)
    spins: list[int] = []
    for name in SUBSHELLS:
        width, electrons = _WIDTHS[name[1]], filled.get(name, 0)
        pairs, occupied = max(0, electrons - width), min(electrons, width)
        spins += pairs * [1, 1] + (occupied - pairs) * [-1, 1] + (width - occupied) * [-1, -1]
    return np.array(spins, dtype=np.float64) / math.sqrt(DIM)
