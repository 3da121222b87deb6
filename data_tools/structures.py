"""Structures to label or to start from, built as declared (`data_tools.structure_config`), perturbed on demand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_tools.lammps_data import read_lammps_data, type_labels
from data_tools.structure_config import (
    AnyStructure,
    AtomConfig,
    DimerConfig,
    FileConfig,
    MDSampling,
    MoleculeConfig,
    MoleculesConfig,
    Perturbed,
    PrototypeConfig,
    Sampling,
    StructureConfig,
    SurfaceConfig,
)
from dpsim.config import Config
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "AtomConfig", "DimerConfig", "FileConfig", "MDSampling", "MoleculeConfig", "MoleculesConfig", "PrototypeConfig",
    "Sampling", "StructureConfig", "SurfaceConfig", "build_structures",
]  # fmt: skip


def build_structures(
    config: AnyStructure | Sequence[AnyStructure],
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


def _build(config: AnyStructure, rng: np.random.Generator) -> list[Atoms]:
    if isinstance(config, PrototypeConfig):
        base = _crystal(config)
        return [_perturb(base, config, rng) for _ in range(config.count)]
    if isinstance(config, MoleculeConfig):
        from data_tools.packing import molecule

        alone = _alone(molecule(config.molecule), config, config.molecule, "molecule")
        return [_perturb(alone, config, rng) for _ in range(config.count)]
    if isinstance(config, DimerConfig):
        return [_perturb(pair, config, rng) for pair in _pairs(config)]
    if isinstance(config, AtomConfig):
        return list(_single(config))
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
    name = f"{config.prototype}-{''.join(symbols)}"
    if config.cluster is not None:
        return _cluster(unit, config.cluster, name)
    kind: str = config.prototype
    if config.surface is not None:
        unit, kind = _slab(unit, config.surface), "surface"
        name += "-" + "".join(map(str, config.surface.miller))
    atoms = unit.repeat(config.supercell)
    atoms.info.update(source=f"{name}-{'x'.join(map(str, config.supercell))}", config_type=kind)
    return atoms


def _slab(unit: Atoms, config: SurfaceConfig) -> Atoms:
    """Return a slab of the crystal, in the middle of a cell that is periodic in all directions."""
    from ase import Atoms
    from ase.build import surface

    slab = surface(unit, config.miller, config.layers, vacuum=config.vacuum / 2, periodic=True)
    return Atoms(slab.numbers, slab.positions, cell=slab.cell, pbc=True)


def _cluster(unit: Atoms, radius: float, name: str) -> Atoms:
    """Return the atoms of the crystal within a radius of its first one."""
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    i, j, away = neighbor_list("ijD", unit, radius)
    mine = i == 0
    numbers = np.append(unit.numbers[0], unit.numbers[j[mine]])
    info = {"source": f"{name}-{radius:g}A", "config_type": "cluster"}
    return Atoms(numbers, np.vstack([np.zeros(3), away[mine]]), info=info)


def _alone(atoms: Atoms, config: MoleculeConfig | DimerConfig | AtomConfig, source: str, kind: str) -> Atoms:
    """Return atoms with open boundaries, or in the middle of a box if there is to be one."""
    if config.box is not None:
        size = float(np.ptp(atoms.positions, axis=0).max(initial=0.0))
        if size >= config.box:
            raise DataError(f"structures: {source} is {size:.2f} Å long, box is {config.box:g} Å: enlarge the box")
        atoms.set_cell([config.box] * 3)
        atoms.center()
        atoms.pbc = True
    atoms.info = {"source": source, "config_type": kind}
    return atoms


def _pairs(config: DimerConfig) -> Iterator[Atoms]:
    from ase import Atoms

    for number, distance in enumerate(np.linspace(*config.distance, config.count)):
        pair = Atoms(config.dimer, [[0.0, 0.0, 0.0], [float(distance), 0.0, 0.0]])
        yield _alone(pair, config, f"dimer-{''.join(config.dimer)}#{number}", "dimer")


def _single(config: AtomConfig) -> Iterator[Atoms]:
    from ase import Atoms

    for symbol in config.symbols:
        yield _alone(Atoms(symbol, [[0.0, 0.0, 0.0]]), config, f"atom-{symbol}", "IsolatedAtom")


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


_STATE = ("initial_charges", "initial_magmoms", "spin", "momenta")
"""Arrays of a file that are part of the state of a structure: what is computed depends on them."""


def _bare(atoms: Atoms, source: str) -> Atoms:
    """Return atoms with charges, moments and velocities of the file, without its labels and constraints."""
    from ase import Atoms

    info = {"source": source, "config_type": str(atoms.info.get("config_type", "file"))}
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)
    for name in _STATE:
        if atoms.has(name):
            bare.set_array(name, atoms.get_array(name))
    return bare


def _perturb(base: Atoms, config: Perturbed, rng: np.random.Generator) -> Atoms:
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
