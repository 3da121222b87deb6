"""Frames of any source, through dpdata, ASE or `dpsim.data`, with types of one type map."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools import extxyz
from data_tools.sources import ASE_FORMATS, OWN_FORMATS, SourceFile
from dpsim.data import Frame, open_dataset
from dpsim.data.dataset import find_systems, type_map_of
from dpsim.data.frame import check_finite, value_shape
from dpsim.errors import DataError, DpsimError
from dpsim.fields import BY_FILE

TypeIndex = Callable[[Sequence[str], str], np.ndarray]


class Elements:
    """Gives every symbol its index; collects symbols as they come, or refuses those outside a type map.

    Parameters
    ----------
    type_map
        The symbols that may occur; None lets any element occur.
    """

    def __init__(self, type_map: Sequence[str] | None):
        if type_map is not None and len(set(type_map)) != len(type_map):
            raise DataError(f"type_map ({' '.join(type_map)}) has a symbol twice, expected every symbol once")
        self.fixed = type_map is not None
        self.names: list[str] = list(type_map or ())
        self.renamed: dict[str, str] = {}

    def index(self, symbols: Sequence[str], where: str) -> np.ndarray:
        """Return ``(n_atoms,)`` types of symbols.

        Raises
        ------
        DataError
            If a symbol is not in the type map, or is no element.
        """
        table = {symbol: self._one(symbol, where) for symbol in dict.fromkeys(symbols)}
        return np.array([table[symbol] for symbol in symbols], np.int64)

    def _one(self, symbol: str, where: str) -> int:
        name: str | None = symbol
        if name not in self.names:
            name = _element(symbol)
            if name is None and not self.fixed:
                raise DataError(
                    f"{where}: {symbol!r} is no element: give a type_map that holds this name, or correct the file"
                )
        if name not in self.names:
            if self.fixed:
                raise DataError(
                    f"{where}: has element {name or symbol}, which is not in the type_map ({' '.join(self.names)}): "
                    "add it there or leave this file out"
                )
            self.names.append(str(name))
        if name != symbol:
            self.renamed[symbol] = str(name)
        return self.names.index(str(name))

    def order(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the final type map and the table from collected to final index.

        A type map that was given stays as it is; else symbols are ordered by atomic number.
        """
        if self.fixed:
            return tuple(self.names), np.arange(len(self.names))
        from ase.data import atomic_numbers

        names = sorted(self.names, key=lambda name: (atomic_numbers.get(name, 999), name))
        return tuple(names), np.array([names.index(name) for name in self.names], np.int64)


def _element(symbol: str) -> str | None:
    """Return the element of a name such as ``Fe1`` or ``O_w`` (kinds of CP2K), None if there is none."""
    from ase.data import atomic_numbers

    match = re.match(r"[A-Za-z]{1,2}?(?=[\d_\-+.]|$)", symbol)
    name = match[0].capitalize() if match else ""
    return name if name in atomic_numbers and name != "X" else None


def read_file(file: SourceFile, elements: Elements, use: extxyz.KeyUse, property_name: str = "") -> Iterator[Frame]:
    """Yield the frames of one file, folder or prefix.

    Parameters
    ----------
    file
        What to read.
    elements
        Gives types and checks elements.
    use
        Counts the keys under which labels of extended XYZ were found.
    property_name
        A property that is read as well, where the format may hold one.

    Raises
    ------
    DataError
        If the file cannot be read, or holds an element outside the type map or a value that is not finite.
    """
    if file.format in ASE_FORMATS:
        yield from extxyz.read(file, elements.index, use, property_name)
        return
    for name, given in (("keys", file.source.keys), ("units", file.source.units), ("periodic", file.source.periodic)):
        if given not in ({}, None):
            raise DataError(f"{file.path}: `{name}` applies to extended XYZ, but this is {file.format}: take it out")
    if file.format in OWN_FORMATS:
        yield from _read_own(file, elements, property_name)
    else:
        yield from _read_dpdata(file, elements)


def _read_own(file: SourceFile, elements: Elements, property_name: str) -> Iterator[Frame]:
    dataset = open_dataset(file.path, _own_type_map(file, elements), property_name=property_name)
    table: dict[int, int] = {}
    for i in range(*file.source.selection().indices(len(dataset))):
        frame = dataset[i]
        for t in np.unique(frame.types):
            if int(t) not in table:
                table[int(t)] = int(elements.index([dataset.type_map[t]], f"{file.path}#{i}")[0])
        types = np.array([table[int(t)] for t in frame.types], np.int64)
        system = dataset.locate(i)[0]
        origin = str(system.path) if frame.origin == system.name else frame.origin
        yield Frame(frame.positions, types, frame.cell, frame.labels, f"{file.path}#{i}", origin)


def _own_type_map(file: SourceFile, elements: Elements) -> list[str] | None:
    """Return the type map for systems that have none of their own: what the user gave."""
    has_own = any(type_map_of(found) for found in find_systems(Path(file.path)))
    return None if has_own or not elements.fixed else list(elements.names)


def _read_dpdata(file: SourceFile, elements: Elements) -> Iterator[Frame]:
    systems = list(_load(file))
    selected = file.source.selection()
    number = 0
    total = sum(len(system.data["coords"]) for system in systems)
    wanted = set(range(*selected.indices(total)))
    for system in systems:
        for row in range(len(system.data["coords"])):
            if number in wanted:
                yield _dpdata_frame(system, row, f"{file.path}#{number}", file.path, elements)
            number += 1
    if not total:
        raise DataError(
            f"{file.path} has no complete frame of {file.format}: was the calculation finished and converged?"
        )


def _load(file: SourceFile) -> Iterable[Any]:
    """Read with dpdata; whatever its parsers raise becomes one sentence."""
    import dpdata

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about other packages; what matters is checked on the frames
            return [dpdata.LabeledSystem(_arguments(file), fmt=file.format)]
    except DpsimError:
        raise
    except (Exception, Warning) as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
        raise DataError(f"{file.path} cannot be read as {file.format}: {text}") from error


def _arguments(file: SourceFile) -> Any:
    """Return what dpdata wants as file name; two formats want input and output."""
    path = Path(file.path)
    if file.format == "dftbplus":
        return str(path / "dftb_pin.hsd"), str(path / "detailed.out")
    if file.format == "qe/pw/scf":
        stems = [path.with_suffix(ending) for ending in (".in", ".inp", ".pwi")]
        stems += [path.with_name(path.name.replace("out", "in"))]
        for candidate in stems:
            if candidate != path and candidate.is_file():
                return [str(candidate), str(path)]
        raise DataError(
            f"{path}: its input file is missing, expected {stems[0].name} beside it (it holds the cell and species)"
        )
    return file.path


def _dpdata_frame(system: Any, row: int, where: str, origin: str, elements: Elements) -> Frame:
    data = system.data
    symbols = [str(data["atom_names"][t]) for t in data["atom_types"]]
    types = elements.index(symbols, where)
    labels = {}
    for kind in system.DTYPES:
        entry = BY_FILE.get(kind.deepmd_name)
        if entry is None or kind.name not in data or len(data[kind.name]) == 0:
            continue
        value = np.asarray(data[kind.name][row], np.float64)
        labels[entry.name] = value.reshape(value_shape(entry, len(types)))
        check_finite(labels[entry.name], entry.name, where)
    cell = None if data.get("nopbc", False) else np.asarray(data["cells"][row], np.float64)
    return Frame(np.asarray(data["coords"][row], np.float64), types, cell, labels, where, origin)
