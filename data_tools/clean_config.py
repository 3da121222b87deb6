"""What is told to an inspection: what counts as the same, as far off, and what is taken out (no numpy here, so that a
workflow is checked at once)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dpsim.config import Config, Energy, Length

Removable = Literal[
    "nan",
    "bad_cell",
    "missing_type",
    "missing_label",
    "too_close",
    "force_outlier",
    "energy_outlier",
    "duplicate",
    "near_duplicate",
]
"""Flaws for which frames may be taken out of a data set."""


class NearDuplicates(Config):
    """Frames that are nearly the same, whatever the order of their atoms, and however they are moved or turned."""

    tol: Length = 0.05
    """Largest difference of two distances, Å. Every atom of one frame has a counterpart in the other whose distances to
    its neighbours, by element and in order of length, differ by no more; so frames whose atoms were displaced by less
    than half of this are always found, and mirror images are the same. Neighbours are those within the radius that 40
    of them would take up on average, but 5 Å at least; in a molecule or cluster of up to 200 atoms with open
    boundaries, all atoms."""
    energy: Annotated[Energy, Field(gt=0)] = 0.005
    """Largest difference of the energies, eV an atom; only of frames that both have one."""


class Outliers(Config):
    """What is far from the rest: the longest force of a frame on a logarithmic scale, and the energy an atom beyond a
    fit of one energy for each element."""

    method: Literal["mad", "iqr"] = "mad"
    """``mad``: farther from the median than `factor` robust standard deviations (1.48 times the median absolute
    deviation); ``iqr``: farther beyond the quartiles than `factor` times the distance between them."""
    factor: Annotated[float, Field(gt=0)] | None = None
    """How far is far; by default 10 with ``mad``, 5 with ``iqr``."""

    @property
    def width(self) -> float:
        """Return the factor that is meant."""
        return self.factor if self.factor is not None else {"mad": 10.0, "iqr": 5.0}[self.method]
