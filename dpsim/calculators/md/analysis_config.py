"""What is computed from the frames of molecular dynamics; only declarations (no torch, no ASE)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from dpsim.config import Config, Fraction, Length, options_by_name


class _OfSegments(Config):
    segments: tuple[int, ...] | None = None
    """Which segments of `run` to use, counted from 0; if absent, the last."""


class _OfContiguousSegments(_OfSegments):
    species: tuple[str, ...] | None = None
    """Elements; if absent, all."""
    segments: tuple[int, ...] | None = None
    """Which segments of `run` to use, counted from 0 and contiguous; if absent, the last."""

    @model_validator(mode="after")
    def _contiguous(self) -> Self:
        used = self.segments or ()
        if any(b != a + 1 for a, b in pairwise(used)):
            raise ValueError(f"segments must follow each other, found {list(used)}: displacements cannot jump")
        return self


class RdfConfig(Config):
    """Radial distribution functions."""

    r_max: Length | None = None
    """Å; if absent, 6 Å or half the smallest height of the cell, whichever is less."""
    bins: Annotated[int, Field(ge=10, le=5000)] = 150
    pairs: tuple[tuple[str, str], ...] | None = None
    """Pairs of elements, e.g. [[O, O], [O, H]] or ["O-O", "O-H"]; if absent, all."""
    images: bool = False
    """Whether `r_max` may pass half the smallest height of the cell, counting periodic images."""
    segments: tuple[int, ...] | None = None
    """Which segments of `run` to average over, counted from 0; if absent, the last."""

    @field_validator("pairs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [pair.split("-") if isinstance(pair, str) else pair for pair in value] if isinstance(value, list) else value
        )


class MsdConfig(_OfContiguousSegments):
    """Mean squared displacement and diffusion coefficients."""

    fit: tuple[Fraction, Fraction] = (0.2, 0.5)
    """Part of the lag times that the straight line is fitted to."""
    blocks: Annotated[int, Field(ge=2, le=50)] = 5
    """Pieces of the trajectory whose coefficients give the block error."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.fit[0] >= self.fit[1]:
            raise ValueError(f"fit must go from a smaller to a larger fraction, found {list(self.fit)}")
        return self


class VdosConfig(_OfContiguousSegments):
    """Vibrational density of states: the spectrum of the velocity autocorrelation.

    Frames are written with velocities where it is asked for. Frequencies go up to half the inverse of `dump.every`
    (500 THz for 1 fs); faster vibrations are folded back, so give the segment frames every 4 fs or less.
    """

    max_lag: Annotated[Fraction, Field(gt=0)] = 0.5
    """Part of the segments that is the longest time difference: the longer, the finer and the noisier."""


class DensityConfig(_OfSegments):
    """Mass density over time, and its average; of the cell at every recorded line of `thermo`."""


class DriftConfig(_OfSegments):
    """Drift of the total energy of nve segments for each atom and nanosecond; by default of all of them."""


class AnalyseConfig(Config):
    """What is computed from the trajectory; averages of temperature and pressure always are, and the drift of nve."""

    rdf: RdfConfig | None = None
    msd: MsdConfig | None = None
    vdos: VdosConfig | None = None
    density: DensityConfig | None = None
    drift: DriftConfig | None = None


def read_analyses(value: Any) -> Any:
    """Turn a list of names, or of ``{name: {options}}``, into a mapping."""
    if not isinstance(value, list | tuple):
        return value
    return options_by_name(value, tuple(AnalyseConfig.model_fields), "analysis", "is not an analysis")
