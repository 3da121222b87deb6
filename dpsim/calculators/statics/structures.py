"""The structures of a declaration, read or built, each with a name of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsim.calculators.md.results import read_frames
from dpsim.calculators.statics.declared import FramesConfig, Structure, declared
from dpsim.data.frame import check_cell, check_finite
from dpsim.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ase import Atoms

NAME = "name"
"""Key of ``atoms.info`` with the name of a structure."""
_SIZE = re.compile(r"-\d+x\d+x\d+$")
_NUMBER = re.compile(r"#\d+$")


def structures_on(
    value: Any,
    *,
    seed: int = 0,
    files: Mapping[str, Sequence[Path]] | None = None,
    type_map: Sequence[str] = (),
    place: str = "on",
) -> list[Atoms]:
    """Read or build the structures of a declaration.

    Parameters
    ----------
    value
        Of the type `On`.
    seed
        Of all that is random in building.
    files
        Files and data sets that references stand for, by the place of the reference, e.g. ``"on.0.frames"``; a name
        that is not there is taken for a path.
    type_map
        Elements of a data set that names none.
    place
        Where the declaration stands, for messages.

    Returns
    -------
    list of Atoms
        At rest: without velocities. ``info["name"]`` is unique. Constraints of frames are kept.

    Raises
    ------
    DataError
        If a file cannot be read or holds no such frame, a number is not finite, or a cell has no volume.
    """
    found: list[Atoms] = []
    for number, (where, name, one) in enumerate(declared((place,), value)):
        dotted = ".".join(map(str, where))
        for atoms in _structures(one, seed + number, files or {}, type_map, dotted):
            atoms.info[NAME] = name or _name_of(atoms)
            atoms.arrays.pop("momenta", None)
            _check(atoms, f"{dotted} ({atoms.info[NAME]})")
            found.append(atoms)
    _make_unique(found)
    return found


def the_one(found: Sequence[Atoms], what: str, place: str = "on") -> Atoms:
    """Return the structure of a declaration that must give a single one.

    Raises
    ------
    ConfigError
        If it gives several.
    """
    if len(found) != 1:
        raise ConfigError(
            f"{place} gives {len(found)} structures, {what} takes one: give index, or a matrix over the structures"
        )
    return found[0]


def _structures(
    one: Structure, seed: int, files: Mapping[str, Sequence[Path]], type_map: Sequence[str], place: str
) -> list[Atoms]:
    if isinstance(one, FramesConfig):
        paths = files.get(f"{place}.frames") or [Path(one.frames)]
        return [atoms for path in paths for atoms in _frames(one, path, type_map, place)]
    from data_tools.structures import build_structures

    if one.sampling is not None:
        raise ConfigError(f"{place}.sampling: structures are taken as they are built here, remove sampling")
    return build_structures(one, seed)


def _frames(one: FramesConfig, path: Path, type_map: Sequence[str], place: str) -> list[Atoms]:
    found = list(read_frames(path, type_map))
    if ":" in one.index:
        chosen = found[slice(*(int(part) if part else None for part in one.index.split(":")))]
    else:
        index = int(one.index)
        chosen = [found[index]] if -len(found) <= index < len(found) else []
    if not chosen:
        raise DataError(f"{place}: {path} holds {len(found)} frames, none of them at index {one.index}: give another")
    for number, atoms in enumerate(chosen):
        atoms.calc = None
        atoms.info.setdefault("source", f"{path}#{number}")
    return [_repeated(atoms, one.supercell) for atoms in chosen]


def _repeated(atoms: Atoms, times: tuple[int, int, int]) -> Atoms:
    return atoms if times == (1, 1, 1) else atoms.repeat(times)


def _name_of(atoms: Atoms) -> str:
    """The name it was given by an earlier stage, else what it was made from, else its formula."""
    if given := str(atoms.info.get(NAME, "")).strip():
        return re.sub(r"[^A-Za-z0-9_.+-]", "-", given)
    source = Path(_NUMBER.sub("", str(atoms.info.get("source", "")))).name
    stem = _SIZE.sub("", source.partition(".")[0] if "." in source else source)
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", stem) or str(atoms.get_chemical_formula())


def _make_unique(found: Sequence[Atoms]) -> None:
    """Number the structures of one name, past the names that others have."""
    given = Counter(atoms.info[NAME] for atoms in found)
    last = Counter[str]()
    for atoms in found:
        name = atoms.info[NAME]
        while given[name] > 1 and atoms.info[NAME] in given:
            last[name] += 1
            atoms.info[NAME] = f"{name}-{last[name]}"


def _check(atoms: Atoms, where: str) -> None:
    if not len(atoms):
        raise DataError(f"{where} has no atoms")
    check_finite(atoms.positions, "coordinates", where)
    if atoms.pbc.any():
        check_cell(np.asarray(atoms.cell.complete()), len(atoms), where)
