"""Structures to label or to start from: crystals, files, and packed boxes of molecules, perturbed on demand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from data_tools.lammps_data import read_lammps_data, type_labels
from dpsim.config import Config, Density, Distance, Fraction, Length, Temperature, Time
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms


class MDSampling(Config):
    """Langevin dynamics with the labelling calculator, from which frames are taken."""

    temperature: Temperature
    steps: int = Field(ge=1)
    """Length of the part that is sampled."""
    timestep: Time = 0.001
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


class _Perturbed(Config):
    """What is done to every structure."""

    rattle: Distance = 0.0
    """Standard deviation of the random displacement of each coordinate."""
    strain: Fraction = 0.0
    """Largest random strain: each of the six components is drawn from ± this."""
    vacancies: int = Field(default=0, ge=0)
    """Number of atoms taken out at random."""
    sampling: Sampling | None = None
    """Molecular dynamics from each structure."""


class PrototypeConfig(_Perturbed):
    """A crystal of one of the simple prototypes."""

    prototype: Literal["fcc", "bcc", "hcp", "diamond", "sc", "rocksalt", "zincblende", "cesiumchloride"]
    element: str | tuple[str, ...]
    """A symbol, or two for a compound."""
    a: Length | None = None
    """Lattice constant; from the experimental structure of the element if not given."""
    c: Length | None = None
    """Second lattice constant of hcp; the ideal ratio if not given."""
    supercell: tuple[int, int, int] = (1, 1, 1)
    """Repetitions of the conventional cell."""
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
        _check_copies(self.count, self)
        return self


class FileConfig(_Perturbed):
    """Structures read from files."""

    path: str = Field(min_length=1)
    """A file or glob of any format that ASE reads."""
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


class MoleculesConfig(_Perturbed):
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


_COMPOUNDS = ("rocksalt", "zincblende", "cesiumchloride")
_KINDS: dict[str, type[_Perturbed]] = {"prototype": PrototypeConfig, "path": FileConfig, "molecules": MoleculesConfig}


def _kind(value: Any) -> str | None:
    keys = value if isinstance(value, Mapping) else {name for name, cls in _KINDS.items() if isinstance(value, cls)}
    found = [name for name in _KINDS if name in keys]
    return found[0] if len(found) == 1 else None


StructureConfig = Annotated[
    Annotated[PrototypeConfig, Tag("prototype")]
    | Annotated[FileConfig, Tag("path")]
    | Annotated[MoleculesConfig, Tag("molecules")],
    Discriminator(
        _kind,
        custom_error_type="structures",
        custom_error_message="structures need exactly one of the keys prototype, path, molecules",
    ),
]
"""Structures, told apart by which of `prototype`, `path` and `molecules` is given."""


def _check_symbols(symbols: Sequence[str]) -> None:
    from ase.data import atomic_numbers

    wrong = [symbol for symbol in symbols if symbol not in atomic_numbers or symbol == "X"]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} is no element")


def _check_copies(count: int, config: _Perturbed) -> None:
    if count > 1 and not (config.rattle or config.strain or config.vacancies or config.sampling):
        raise ValueError(f"count is {count}, but all copies would be equal: give rattle, strain, vacancies or sampling")


def build_structures(
    config: PrototypeConfig | FileConfig | MoleculesConfig | Sequence[PrototypeConfig | FileConfig | MoleculesConfig],
    seed: int = 0,
) -> list[Atoms]:
    """Build the structures of one or several declarations.

    Parameters
    ----------
    config
        What to build.
    seed
        Of all that is random; equal seeds give equal structures.

    Returns
    -------
    list of Atoms
        ``info["source"]`` says what each was made from, ``info["config_type"]`` of which kind it is, and
        ``info["sampling"]`` holds the settings and the seed of molecular dynamics where that is asked for.

    Raises
    ------
    DataError
        If a file is missing, or molecules cannot be packed.
    """
    configs = [config] if isinstance(config, Config) else list(config)
    structures: list[Atoms] = []
    for number, one in enumerate(configs):
        rng = np.random.default_rng([seed, number])
        for atoms in _build(one, rng):
            sampling_seed = int(rng.integers(2**31))
            if one.sampling is not None:
                atoms.info["sampling"] = {**one.sampling.model_dump(mode="json"), "seed": sampling_seed}
            structures.append(atoms)
    return structures


def _build(config: PrototypeConfig | FileConfig | MoleculesConfig, rng: np.random.Generator) -> list[Atoms]:
    if isinstance(config, PrototypeConfig):
        base = _crystal(config)
        return [_perturb(base, config, rng) for _ in range(config.count)]
    if isinstance(config, FileConfig):
        return [_perturb(base, config, rng) for base in _from_files(config, rng) for _ in range(config.count)]
    from data_tools.packing import pack

    boxes = []
    for number in range(config.count):
        box = pack(config.molecules, config.density, config.min_distance, config.contact, rng)
        box.info.update(source=f"{_molecules_name(config)}#{number}", config_type="molecules")
        boxes.append(_perturb(box, config, rng))
    return boxes


def _molecules_name(config: MoleculesConfig) -> str:
    return "+".join(f"{number}{name}" for name, number in config.molecules.items())


def _crystal(config: PrototypeConfig) -> Atoms:
    from ase.build import bulk

    symbols = (config.element,) if isinstance(config.element, str) else config.element
    a = config.a if config.a is not None else _lattice_constant(symbols[0], config.prototype)
    if config.prototype == "hcp":
        unit = bulk(symbols[0], "hcp", a=a, c=config.c or a * math.sqrt(8 / 3))
    else:
        unit = bulk("".join(symbols), config.prototype, a=a, cubic=True)
    atoms = unit.repeat(config.supercell)
    size = "x".join(map(str, config.supercell))
    atoms.info.update(source=f"{config.prototype}-{''.join(symbols)}-{size}", config_type=config.prototype)
    return atoms


_ATOMS_PER_A3 = {"fcc": 4.0, "bcc": 2.0, "diamond": 8.0, "sc": 1.0, "hcp": math.sqrt(2)}
"""Atoms in a³, with the ideal ratio c/a for hcp."""


def _lattice_constant(symbol: str, prototype: str) -> float:
    """Return a (Å) that gives the element the volume for an atom of its experimental structure."""
    from ase.data import atomic_numbers, reference_states

    state = reference_states[atomic_numbers[symbol]] or {}
    if state.get("symmetry") not in _ATOMS_PER_A3 or "a" not in state:
        raise DataError(
            f"structures: the lattice constant of {symbol} is not known: give a, for example `a: 4.0 angstrom`"
        )
    if state["symmetry"] == prototype:
        return float(state["a"])
    ratio = state["c/a"] / math.sqrt(8 / 3) if state["symmetry"] == "hcp" else 1.0
    volume = state["a"] ** 3 * ratio / _ATOMS_PER_A3[state["symmetry"]]
    return float((volume * _ATOMS_PER_A3[prototype]) ** (1 / 3))


def _from_files(config: FileConfig, rng: np.random.Generator) -> list[Atoms]:
    import glob
    import os

    from ase.io import read

    path = os.path.expanduser(config.path)
    files = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path]
    if not files or not os.path.isfile(files[0]):
        raise DataError(f"structures: {config.path} matches no file, expected structures: check the path")
    found: list[Atoms] = []
    for file in files:
        try:
            if config.types or type_labels(file):
                images = read_lammps_data(file, config.types)
            else:
                images = read(file, index=config.index)
        except DataError:
            raise
        except Exception as error:  # ASE raises whatever its parsers meet
            raise DataError(f"structures: {file} cannot be read: {type(error).__name__}: {error}") from error
        for number, atoms in enumerate(images if isinstance(images, list) else [images]):
            found.append(_bare(atoms, str(atoms.info.get("source") or f"{file}#{number}")))
    if not found:
        raise DataError(f"structures: {config.path} has no structure at index {config.index}")
    if config.sample is None:
        return found
    if config.sample > len(found):
        raise DataError(f"structures: sample is {config.sample}, but {config.path} holds {len(found)} structures")
    return [found[i] for i in sorted(rng.choice(len(found), config.sample, replace=False))]


def _bare(atoms: Atoms, source: str) -> Atoms:
    """Return atoms without labels, velocities and constraints of the file."""
    from ase import Atoms

    info = {"source": source, "config_type": str(atoms.info.get("config_type", "file"))}
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)


def _perturb(base: Atoms, config: _Perturbed, rng: np.random.Generator) -> Atoms:
    atoms = base.copy()
    source = atoms.info["source"]
    if config.vacancies >= len(atoms):
        raise DataError(
            f"structures: {source} has {len(atoms)} atoms, from which {config.vacancies} vacancies cannot be made"
        )
    if config.strain and not atoms.pbc.all():
        raise DataError(f"structures: {source} has open boundaries and cannot be strained: take strain out")
    if config.vacancies:
        del atoms[sorted(rng.choice(len(atoms), config.vacancies, replace=False))]
    if config.strain:
        xx, yy, zz, yz, xz, xy = rng.uniform(-config.strain, config.strain, 6)
        strain = np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
        atoms.set_cell(np.asarray(atoms.cell) @ (np.eye(3) + strain), scale_atoms=True)
    if config.rattle:
        atoms.positions += rng.normal(0.0, config.rattle, (len(atoms), 3))
    return atoms
