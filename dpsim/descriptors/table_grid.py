"""Where a table has its nodes (spec classic.md §7.2). No torch here."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from dpsim.config import Config

Count = Annotated[int, Field(ge=0)]


class TableGrid(Config):
    """Intervals of equal width in each of three parts of a table; outside, straight lines go on."""

    start: float
    """Lower end of the table."""
    lower: float
    """Where the fine part begins."""
    upper: float
    """Where the fine part ends."""
    end: float
    """Upper end of the table."""
    below: Count
    """Number of intervals from `start` to `lower`."""
    inside: Annotated[int, Field(gt=0)]
    """Number of intervals from `lower` to `upper`."""
    above: Count
    """Number of intervals from `upper` to `end`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        ascends = self.start <= self.lower < self.upper <= self.end
        if not ascends or (self.below > 0) != (self.start < self.lower) or (self.above > 0) != (self.upper < self.end):
            raise ValueError("start <= lower < upper <= end is needed, and intervals in every part that is not empty")
        return self

    @property
    def n_intervals(self) -> int:
        """Number of all intervals."""
        return self.below + self.inside + self.above

    @property
    def numbers(self) -> tuple[float, ...]:
        """All settings as `dpsim.ops.tabulate` takes them."""
        return self.start, self.lower, self.upper, self.end, self.below, self.inside, self.above

    @classmethod
    def over(cls, lower: float, upper: float, step: float, extrapolate: float, *, both_sides: bool) -> TableGrid:
        """Grid with intervals of about `step` in ``[lower, upper]``, and ten times that up to `extrapolate` as far.

        Parameters
        ----------
        both_sides
            Whether there is a coarse part below as well.
        """
        start, end = extrapolate * lower if both_sides else lower, extrapolate * upper

        def count(width: float, size: float) -> int:
            return math.ceil(width / size * (1 - 1e-12)) if width > 0 else 0

        return cls(
            start=start,
            lower=lower,
            upper=upper,
            end=end,
            below=count(lower - start, 10 * step),
            inside=count(upper - lower, step),
            above=count(end - upper, 10 * step),
        )
