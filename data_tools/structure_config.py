"""Declarations of structures: crystals and what is cut from them, files, packed boxes, molecules, pairs, atoms.

What is built of them is in `data_tools.structures`; no numpy here, so that a workflow is checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from dpsim.config import Config, Density, Distance, Fraction, Length, Temperature, Time, TimeStep


class MDSampling(Config):
    """Langevin dynamics with the labelling calculator, from which frames are taken."""

    temperature: Temperature
    steps: int = Field(ge=1)
    """Length of the part that is sampled."""
    timestep: TimeStep = 0.001
    """Of the integration."""
    every: int = Field(default=10, ge=1)
    """Steps between two frames."""
    equilibrate: int = Field(default=0, ge=0)
    """Steps before the first frame."""
    damping: Time = 0.1
    """Time in which the thermostat acts; its inverse is the friction coefficient."""

    @model_validator(mode="after")
    def _check_every(self) -> MDSampling:
        if self.steps < self.every:
            raise ValueError(f"steps ({self.steps}) is less than every ({self.every}), so no frame would be taken")
        return self


class Sampling(Config):
    """How frames are made from each structure; by default the structure itself is the frame."""

    md: MDSampling


class Perturbed(Config):
    """What is done to every structure."""

    rattle: Distance = 0.0
    """Standard deviation of the random displacement of each coordinate."""
    strain: Fraction = 0.0
    """Largest random strain: each of the six components is drawn from ± this."""
    vacancies: int = Field(default=0, ge=0)
    """Number of atoms taken out at random."""
    sampling: Sampling | None = None
    """Molecular dynamics from each structure."""


class SurfaceConfig(Config):
    """A slab: how a crystal is cut."""

    miller: tuple[int, int, int]
    """Miller indices of the surface, with respect to the conventional cell."""
    layers: int = Field(default=4, ge=1)
    """Layers of the surface cell, one above the other; each is as deep as the crystal repeats in this direction, or a
    fraction of that where its planes are equal."""
    vacuum: Length = 15.0
    """Between the slab and its next image."""

    @field_validator("miller")
    @classmethod
    def _check_miller(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if not any(value):
            raise ValueError("miller [0, 0, 0] is no plane, expected for example [1, 1, 1]")
        return value


class PrototypeConfig(Perturbed):
    """A crystal of one of the simple prototypes, or a slab or a cluster cut from it."""

    prototype: Literal["fcc", "bcc", "hcp", "diamond", "sc", "rocksalt", "zincblende", "cesiumchloride"]
    element: str | tuple[str, ...]
    """A symbol, or two for a compound."""
    a: Length | None = None
    """Lattice constant; from the experimental structure of the element if not given."""
    c: Length | None = None
    """Second lattice constant of hcp; the ideal ratio if not given."""
    supercell: tuple[int, int, int] = (1, 1, 1)
    """Repetitions of the conventional cell; of a slab, of its cell along the surface, ``[2, 2, 1]``."""
    surface: SurfaceConfig | None = None
    """Cut a slab, periodic in all directions, with vacuum above it: ``{miller: [1, 1, 1], layers: 4}``."""
    cluster: Length | None = None
    """Cut a ball of this radius about an atom, with open boundaries."""
    count: int = Field(default=1, ge=1)
    """Number of structures."""

    @field_validator("supercell")
    @classmethod
    def _check_supercell(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(value) < 1:
            raise ValueError(f"supercell {list(value)} has a repetition below one")
        return value

    @model_validator(mode="after")
    def _check_elements(self) -> PrototypeConfig:
        symbols = (self.element,) if isinstance(self.element, str) else self.element
        _check_symbols(symbols)
        expected = 2 if self.prototype in _COMPOUNDS else 1
        if len(symbols) != expected:
            raise ValueError(f"{self.prototype} takes {expected} element(s), found {len(symbols)}")
        if expected == 2 and self.a is None:
            raise ValueError(f"{self.prototype} needs the lattice constant a")
        if self.c is not None and self.prototype != "hcp":
            raise ValueError(f"c applies to hcp, not to {self.prototype}")
        if self.surface is not None and self.cluster is not None:
            raise ValueError("surface and cluster exclude each other: cut a slab or a ball")
        if self.surface is not None and self.supercell[2] != 1:
            raise ValueError(f"supercell {list(self.supercell)} repeats the slab upwards: its depth is surface.layers")
        if self.cluster is not None and self.supercell != (1, 1, 1):
            raise ValueError("supercell has no effect on a cluster, whose size is its radius: leave it out")
        _check_copies(self.count, self)
        return self

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later, where it has no effect: labels made before are found."""
        return {key: v for key, v in handler(self).items() if key not in ("surface", "cluster") or v is not None}


class FileConfig(Perturbed):
    """Structures read from files: elements, positions and cell, without labels, velocities and constraints."""

    path: str = Field(min_length=1)
    """A file or glob of any format that ASE reads. Initial charges, magnetic moments and velocities are kept, labels
    and constraints are not."""
    index: str | int = ":"
    """Which structures of each file, as in ASE."""
    sample: int | None = Field(default=None, ge=1)
    """Number drawn at random without repetition; all if not given."""
    count: int = Field(default=1, ge=1)
    """Copies of each, perturbed differently."""
    types: tuple[str, ...] = ()
    """For LAMMPS data files: the symbol of each atom type; not needed where type labels are elements."""

    @model_validator(mode="after")
    def _check_file(self) -> FileConfig:
        _check_symbols(self.types)
        if self.types and self.index != ":":
            raise ValueError("index applies to files of several structures, not to LAMMPS data files (types)")
        _check_copies(self.count, self)
        return self


class MoleculesConfig(Perturbed):
    """A periodic cubic box of molecules, packed at random without overlaps."""

    molecules: dict[str, Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """Name (of ASE's molecules, ``H2O``, ``CH3OH``, or a file) and number."""
    density: Density
    """Of the box."""
    min_distance: Length = 1.6
    """Least distance between atoms of different molecules (images included)."""
    contact: Fraction = 0.8
    """Atoms of different molecules are also no nearer than this share of the sum of their van der Waals radii."""
    count: int = Field(default=1, ge=1)
    """Number of boxes, each packed anew."""


class _Alone(Perturbed):
    """What lies by itself, in open boundaries or in a box."""

    box: Length | None = None
    """Edge of a periodic cube around it; open boundaries if not given."""


class MoleculeConfig(_Alone):
    """One molecule."""

    molecule: str = Field(min_length=1)
    """Name of ASE's molecules, ``H2O``, ``CH3OH``, or a file."""
    count: int = Field(default=1, ge=1)
    """Copies, perturbed differently."""

    @model_validator(mode="after")
    def _check(self) -> MoleculeConfig:
        _check_copies(self.count, self)
        return self


class DimerConfig(_Alone):
    """Two atoms, at one distance after the other."""

    dimer: tuple[str, str]
    """Symbols."""
    distance: tuple[Length, Length]
    """Shortest and longest."""
    count: int = Field(default=20, ge=1)
    """Number of distances, evenly spaced from the shortest to the longest; of one, it is the shortest."""

    @model_validator(mode="after")
    def _check(self) -> DimerConfig:
        _check_symbols(self.dimer)
        if self.distance[0] > self.distance[1]:
            raise ValueError(f"distance falls from {self.distance[0]:g} to {self.distance[1]:g} Å, expected it to rise")
        if self.vacancies or self.strain:
            raise ValueError("vacancies and strain have no meaning for two atoms: leave them out")
        if self.box is not None and self.box <= self.distance[1]:
            raise ValueError(f"box ({self.box:g} Å) is not larger than the longest distance ({self.distance[1]:g} Å)")
        return self


class AtomConfig(_Alone):
    """Single atoms, for energies to which others are compared (``config_type=IsolatedAtom``)."""

    atom: str | tuple[str, ...]
    """A symbol or several, each an atom by itself."""

    @model_validator(mode="after")
    def _check(self) -> AtomConfig:
        _check_symbols(self.symbols)
        if self.vacancies or self.strain or self.rattle or self.sampling:
            raise ValueError("a single atom cannot be perturbed: leave rattle, strain, vacancies and sampling out")
        return self

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols of all atoms."""
        return (self.atom,) if isinstance(self.atom, str) else self.atom


_COMPOUNDS = ("rocksalt", "zincblende", "cesiumchloride")
AnyStructure = PrototypeConfig | FileConfig | MoleculesConfig | MoleculeConfig | DimerConfig | AtomConfig
_KINDS: dict[str, type[Config]] = {
    "prototype": PrototypeConfig, "path": FileConfig, "molecules": MoleculesConfig, "molecule": MoleculeConfig,
    "dimer": DimerConfig, "atom": AtomConfig,
}  # fmt: skip
KINDS: tuple[str, ...] = tuple(_KINDS)
"""Keys that tell structures apart."""


def _kind(value: Any) -> str | None:
    keys = value if isinstance(value, Mapping) else {name for name, cls in _KINDS.items() if isinstance(value, cls)}
    found = [name for name in _KINDS if name in keys]
    return found[0] if len(found) == 1 else None


StructureConfig = Annotated[
    Annotated[PrototypeConfig, Tag("prototype")]
    | Annotated[FileConfig, Tag("path")]
    | Annotated[MoleculesConfig, Tag("molecules")]
    | Annotated[MoleculeConfig, Tag("molecule")]
    | Annotated[DimerConfig, Tag("dimer")]
    | Annotated[AtomConfig, Tag("atom")],
    Discriminator(
        _kind,
        custom_error_type="structures",
        custom_error_message=f"structures need exactly one of the keys {', '.join(_KINDS)}",
    ),
]
"""Structures, told apart by which of their keys is given."""


def _check_symbols(symbols: Sequence[str]) -> None:
    from ase.data import atomic_numbers

    wrong = [symbol for symbol in symbols if symbol not in atomic_numbers or symbol == "X"]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} is no element")


def _check_copies(count: int, config: Perturbed) -> None:
    if count > 1 and not (config.rattle or config.strain or config.vacancies or config.sampling):
        raise ValueError(f"count is {count}, but all copies would be equal: give rattle, strain, vacancies or sampling")
