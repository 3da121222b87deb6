"""What a calculation of properties is told: which ones, how, and what they are compared with."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dpsim.calculators.statics.declared import On, OneStructure
from dpsim.calculators.statics.phonon_config import PhononSettings
from dpsim.calculators.statics.property_names import DIMENSIONS, check_tolerance
from dpsim.calculators.statics.relax_config import RelaxSettings, TightSettings
from dpsim.config import Config, Energy, Force, Fraction, Length, options_by_name
from dpsim.errors import ConfigError
from dpsim.units import parse_quantity

Equation = Literal["birchmurnaghan", "murnaghan", "birch", "vinet", "pouriertarantola"]


class _AtomsRelaxed(Config):
    """Relaxation of atoms in a cell that is fixed."""

    fmax: Annotated[Force, Field(gt=0)] = 0.01
    """Longest force at which atoms are relaxed, eV/Å."""
    max_steps: Annotated[int, Field(ge=1)] = 500
    """Steps after which a structure counts as not converged."""

    def settings(self) -> RelaxSettings:
        """As settings of a relaxation."""
        return RelaxSettings(fmax=self.fmax, max_steps=self.max_steps)


class EosConfig(_AtomsRelaxed):
    """Equation of state: energies of the crystal at scaled volumes."""

    fmax: Annotated[Force, Field(gt=0)] = 1e-3
    """Longest force at which atoms are relaxed at each volume, eV/Å."""
    volumes: Annotated[Fraction, Field(gt=0, le=0.5)] = 0.06
    """How far volumes go beyond that of the relaxed crystal, to either side."""
    points: Annotated[int, Field(ge=5, le=101)] = 9
    """Number of volumes."""
    equation: Equation = "birchmurnaghan"
    """Equation that is fitted, by its name in `ase.eos`."""


class ElasticConfig(_AtomsRelaxed):
    """Elastic constants: stresses of the crystal under the six strains, to either side."""

    fmax: Annotated[Force, Field(gt=0)] = 1e-3
    """Longest force at which atoms are relaxed at each strain, eV/Å."""
    strains: Annotated[tuple[Annotated[Fraction, Field(gt=0, le=0.1)], ...], Field(min_length=1)] = (0.0025, 0.005)
    """Sizes of the strains; each is taken with both signs."""
    symprec: Length = 1e-3
    """Distance within which atoms count as equivalent, Å."""


class VacancyConfig(_AtomsRelaxed):
    """Formation energy of a vacancy on every kind of site."""

    min_length: Length = 10.0
    """Least height of the supercell, Å."""
    species: tuple[str, ...] | None = None
    """Elements that are taken out; if absent, all."""
    chemical_potentials: dict[str, Energy] = {}
    """Energy (eV) of an atom that is taken out, by element; of a crystal of one element by default that of the
    crystal."""
    symprec: Length = 1e-3
    """Distance within which sites count as equivalent, Å."""


class SurfaceConfig(_AtomsRelaxed):
    """Energies of surfaces from slabs."""

    miller: Annotated[tuple[tuple[int, int, int], ...], Field(min_length=1)] = ((1, 0, 0), (1, 1, 0), (1, 1, 1))
    """Miller indices, of the conventional cell."""
    min_thickness: Length = 12.0
    """Least thickness of the slab, Å."""
    vacuum: Length = 12.0
    """Height of the empty space, Å."""
    relax: bool = True
    """Whether the atoms of the slab are relaxed."""
    symprec: Length = 1e-3
    """Distance within which atoms count as equivalent when the conventional cell is looked for, Å."""

    @field_validator("miller")
    @classmethod
    def _some_direction(cls, value: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
        if any(not any(one) for one in value):
            raise ValueError("(0, 0, 0) are no Miller indices: one of them must differ from zero")
        return value


class NebConfig(Config):
    """Barrier between two states, by the nudged elastic band."""

    initial: OneStructure | None = None
    """The state at the beginning."""
    final: OneStructure | None = None
    """The state at the end, with the atoms in the same order."""
    vacancy_hop: bool = False
    """Instead of `initial` and `final`: in each structure of `on`, an atom jumps into a vacancy beside it."""
    min_length: Length = 10.0
    """Least height of the supercell of a vacancy, Å."""
    images: Annotated[int, Field(ge=1, le=51)] = 5
    """Images between the two ends."""
    climb: bool = True
    """Whether the highest image climbs to the saddle point."""
    spring: Annotated[float, Field(gt=0)] = 0.1
    """Spring constant between images, eV/Å²."""
    fmax: Annotated[Force, Field(gt=0)] = 0.05
    """Longest force on an atom of an image at which the band is relaxed, eV/Å; of the ends a fifth."""
    max_steps: Annotated[int, Field(ge=1)] = 500
    """Steps after which band or ends count as not converged."""
    relax_ends: bool = True
    """Whether the two ends are relaxed before."""

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        ends = (self.initial is not None) + (self.final is not None)
        if self.vacancy_hop and ends:
            raise ValueError("neb takes either 'initial' and 'final', or 'vacancy_hop: true'")
        if not self.vacancy_hop and ends != 2:
            raise ValueError("neb needs both 'initial' and 'final', or 'vacancy_hop: true'")
        return self


class ComputeConfig(Config):
    """Properties with their options; each is computed if it is named."""

    relax: TightSettings | Literal[False] = False
    """Lattice constants, volume and energy. Every other property begins with this relaxation, too."""
    eos: EosConfig | Literal[False] = False
    """Equation of state: V0, E0, B0, B0_prime."""
    elastic: ElasticConfig | Literal[False] = False
    """Elastic constants, moduli of the polycrystal, mechanical stability."""
    vacancy: VacancyConfig | Literal[False] = False
    """Formation energies of vacancies."""
    surface: SurfaceConfig | Literal[False] = False
    """Energies of surfaces."""
    neb: NebConfig | Literal[False] = False
    """Barrier between two states."""
    phonon: PhononSettings | Literal[False] = False
    """Highest and lowest frequency, zero-point energy; the stage `phonon` gives all of it."""

    @model_validator(mode="after")
    def _phonons_in_short(self) -> Self:
        if not self.phonon:
            return self
        plain = PhononSettings()
        if self.phonon.relax != plain.relax:
            raise ValueError("phonon.relax has no effect here: the relaxation of all properties is set by 'relax'")
        for name in ("thermal", "projected"):
            if getattr(self.phonon, name) != getattr(plain, name):
                raise ValueError(f"phonon.{name} has no effect here: the stage 'phonon' gives all of it")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the properties that are computed."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not False)

    @property
    def of_crystals(self) -> tuple[str, ...]:
        """Names of those that are computed for every structure."""
        return tuple(name for name in self.names if name != "neb" or (self.neb and self.neb.vacancy_hop))

    @property
    def start(self) -> TightSettings:
        """The relaxation that comes first."""
        return self.relax or TightSettings()


def _read_compute(value: Any) -> Any:
    """A list of names and of ``{name: {options}}``, or one mapping, as a mapping; no options are the defaults."""
    if isinstance(value, dict):
        return {name: {} if options is None else options for name, options in value.items()}
    if not isinstance(value, list | tuple):
        return value
    return options_by_name(value, tuple(ComputeConfig.model_fields), "property", "is no property", closed=True)


_NAMES = ", ".join(ComputeConfig.model_fields)


def _read_tolerance(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a tolerance: write a share ('5 %') or a quantity ('0.1 eV')")
    text = str(value).strip()
    for dimension in DIMENSIONS:
        try:
            number = parse_quantity(text, dimension, bare=dimension == "fraction")
        except ConfigError:
            continue
        if number < 0:
            raise ValueError(f"{value!r} lies below zero")
        return text
    raise ValueError(f"{value!r} is not a tolerance: write a share ('5 %') or a quantity ('0.1 eV', '2 GPa')")


Tolerance = Annotated[str, BeforeValidator(_read_tolerance)]
"""A share of the reference value, or a quantity with its unit; kept as text."""


class PropertiesConfig(Config):
    """Properties of crystals."""

    on: On | None = None
    """Crystals: ``relaxed.frames``, ``{prototype: fcc, element: Cu}``, a list, or a mapping ``{name: structure}``."""
    compute: Annotated[ComputeConfig, BeforeValidator(_read_compute)]
    """relax, eos, elastic, vacancy, surface, neb, phonon; a list of names or {name: {options}}."""
    reference: str | None = None
    """Values to compare with: a YAML or JSON file ``{structure: {C11: 170 GPa}}``, or the table of another such
    stage."""
    tolerance: Tolerance | dict[str, Tolerance] = {}
    """How far values may be from the reference: for all, or by property (``C11``) or group (``elastic``)."""
    beyond_tolerance: Literal["fail", "warn"] = "fail"
    """What follows if a value is farther than that."""
    tolerate_failures: Fraction = 0.0
    """Share of the calculations (one property of one structure) that may fail."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.compute.names:
            raise ValueError(f"compute names no property: write one of {_NAMES}")
        crystals = self.compute.of_crystals
        if crystals and self.on is None:
            raise ValueError(f"{crystals[0]} is computed for structures, but 'on' gives none")
        if not crystals and self.on is not None:
            raise ValueError("neb has its own structures, 'on' has no effect: take it out")
        if self.tolerance and self.reference is None:
            raise ValueError("tolerance is one to a reference, but none is given")
        given = {"": self.tolerance} if isinstance(self.tolerance, str) else self.tolerance
        for key, text in given.items():
            try:
                check_tolerance(text, key, self.compute.names)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self
