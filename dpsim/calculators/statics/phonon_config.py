"""What a calculation of phonons is told."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dpsim.calculators.statics.declared import OneStructure, Repetition
from dpsim.calculators.statics.relax_config import TightSettings
from dpsim.config import Config, Frequency, Length, Temperature

Row = tuple[int, int, int]
Point = tuple[float, float, float]


class BandsConfig(Config):
    """A path through the Brillouin zone."""

    path: Annotated[list[Annotated[list[str], Field(min_length=2)]], Field(min_length=1)]
    """Names of points, connected within a list: ``[[Γ, X], [K, Γ, L]]``."""
    points: dict[str, Point]
    """Points in units of the reciprocal vectors of the primitive cell."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (name for part in self.path for name in part):
            if name not in self.points:
                raise ValueError(f"the path goes through {name!r}, expected one of the points {', '.join(self.points)}")
        return self


class ThermalConfig(Config):
    """Temperatures at which free energy, entropy and heat capacity are given."""

    tmin: Temperature = 0.0
    tmax: Temperature = 1000.0
    step: Annotated[Temperature, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.tmax < self.tmin:
            raise ValueError(f"tmax ({self.tmax:g} K) lies below tmin ({self.tmin:g} K)")
        return self


class ImaginaryConfig(Config):
    """What counts as an imaginary mode, and what follows from one."""

    tolerance: Annotated[Frequency, Field(ge=0)] = 0.1
    """Imaginary frequencies below this are noise of acoustic modes near Γ, THz."""
    fail: bool = False
    """Whether the stage fails if there is one; by default it says so in report and log."""


class PhononSettings(Config):
    """Harmonic phonons by finite displacements in a supercell."""

    supercell: Row | tuple[Row, Row, Row] | None = None
    """Repetitions of the structure along its cell vectors, or the supercell as a matrix of integers."""
    min_length: Length | None = None
    """Least height of the supercell, Å; 10 Å if no `supercell` is given."""
    displacement: Length = 0.01
    """How far atoms are displaced, Å."""
    relax: TightSettings | Literal[False] = TightSettings()
    """How the structure is relaxed before; ``false``: it is taken as it is."""
    symprec: Length = 1e-3
    """Distance within which atoms count as equivalent, Å."""
    force_constants: Literal["symfc", "direct"] = "symfc"
    """Fitted with all symmetries and sum rules built in, or from the displacements one by one, made symmetric after."""
    bands: Literal["auto"] | BandsConfig = "auto"
    """Path of the band structure; ``auto``: by seekpath if it is installed, else that of ASE for the lattice."""
    band_points: Annotated[int, Field(ge=2, le=1000)] = 51
    """Points on each part of the path."""
    mesh: tuple[Repetition, Repetition, Repetition] | Annotated[float, Field(gt=0)] = 100.0
    """Mesh of q-points for the density of states: numbers along the three vectors, or a length in Å, the larger the
    denser."""
    projected: bool = False
    """Whether the density of states is also given for each element."""
    thermal: ThermalConfig | Literal[False] = ThermalConfig()
    """Temperatures of the thermal properties; ``false``: none."""
    imaginary: ImaginaryConfig = ImaginaryConfig()

    @field_validator("supercell")
    @classmethod
    def _has_volume(cls, value: Row | tuple[Row, Row, Row] | None) -> Row | tuple[Row, Row, Row] | None:
        if value is None:
            return value
        if isinstance(value[0], int):
            if min(value) < 1:  # type: ignore[type-var]
                raise ValueError(f"supercell {list(value)} has a repetition below one")
        else:
            (a, b, c), (d, e, f), (g, h, i) = value  # type: ignore[misc]
            if a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) < 1:
                raise ValueError(f"supercell {[list(row) for row in value]} has no positive volume")  # type: ignore[arg-type]
        return value

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.supercell is not None and self.min_length is not None:
            raise ValueError("give the size of the supercell once, as 'supercell' or as 'min_length'")
        return self


class PhononConfig(PhononSettings):
    """Phonons of one structure."""

    on: OneStructure
    """The structure: ``relaxed.frames``, ``{frames: relaxed.frames, index: 0}``, ``{prototype: fcc, element: Cu}``."""
    nac: str | None = None
    """File BORN of phonopy with Born charges and dielectric tensor, for the splitting of polar modes at Γ."""
    reference: str | None = None
    """Bands that those found are compared with: a reference as ``other.bands``, or the path of such a file."""
    max_difference: Annotated[Frequency, Field(gt=0)] | None = None
    """Root-mean-square difference to the reference above which the stage fails, THz."""

    @model_validator(mode="after")
    def _difference_to_something(self) -> Self:
        if self.max_difference is not None and self.reference is None:
            raise ValueError("max_difference is one to a reference, but none is given: name other bands")
        return self
