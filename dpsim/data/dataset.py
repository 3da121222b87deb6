"""A data set: all systems below some folders, with one type map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dpsim.data.frame import Frame
from dpsim.data.lmdb import LmdbSystem, database, is_lmdb, lmdb_systems
from dpsim.data.locate import Found, find_all, find_systems
from dpsim.data.npy import System, read_type_map
from dpsim.errors import DataError
from dpsim.fields import FIELDS, Field, fields_of_property

__all__ = ["AnySystem", "Dataset", "System", "find_systems", "open_dataset", "type_map_of"]

AnySystem = System | LmdbSystem


class Dataset:
    """Frames of several systems in one row; arrays stay on disk until a frame is read.

    Parameters
    ----------
    systems
        With the same `type_map`.
    """

    def __init__(self, systems: Sequence[AnySystem]):
        self.systems = tuple(systems)
        self.type_map: tuple[str, ...] = self.systems[0].type_map if self.systems else ()
        if any(system.type_map != self.type_map for system in self.systems):
            raise ValueError("the systems of a data set must share one type_map")
        self._offsets = np.cumsum([0] + [system.n_frames for system in self.systems])

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def __getitem__(self, i: int) -> Frame:
        system, row = self.locate(i)
        return system.frame(row)

    def __iter__(self) -> Iterator[Frame]:
        return (system.frame(i) for system in self.systems for i in range(system.n_frames))

    def __repr__(self) -> str:
        return f"Dataset({len(self)} frames in {len(self.systems)} systems, type_map {' '.join(self.type_map)})"

    def locate(self, i: int) -> tuple[AnySystem, int]:
        """Return the system of frame `i` and the index there; negative indices count from the end."""
        place = i + len(self) if i < 0 else i
        if not 0 <= place < len(self):
            raise IndexError(f"frame {i} of a data set with {len(self)}")
        k = int(np.searchsorted(self._offsets, place, side="right")) - 1
        return self.systems[k], place - int(self._offsets[k])

    def has(self, field: str) -> bool:
        """Whether any frame has this field."""
        return any(system.has(field) for system in self.systems)

    @property
    def labels(self) -> dict[str, int]:
        """Number of frames that have each field, for the fields that occur."""
        total: dict[str, int] = {}
        for system in self.systems:
            for name, count in system.labels.items():
                total[name] = total.get(name, 0) + count
        return total


def open_dataset(
    paths: str | Path | Sequence[str | Path],
    type_map: Sequence[str] | None = None,
    *,
    patterns: Sequence[str] = (),
    property_name: str = "",
) -> Dataset:
    """Open all systems in or below some folders.

    Parameters
    ----------
    paths
        System folders (they hold ``type.raw``), or folders that are searched for such; HDF5 files, groups of them
        (``file.hdf5#/group``), LMDB folders; globs of all these. A system that is reached twice is taken once.
    type_map
        Symbols to which `Frame.types` shall refer. None joins the maps of the systems, in the order met.
    patterns
        If given, only systems whose path below the searched folder ends in what matches one of these globs.
    property_name
        The field ``property`` is read from ``<property_name>.npy``.

    Raises
    ------
    DataError
        If a folder is missing, holds no system, or a system is malformed or has an element outside `type_map`; if a
        glob matches nothing.
    SetupError
        If there are LMDB data and the packages that read them are missing.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise DataError("no data were given, expected at least one folder with a system (type.raw)")
    found = find_all(given, patterns)
    kept = [database(one.path) for one in found if is_lmdb(one.path)]  # open until their systems hold them
    names = _join_type_maps(found) if type_map is None else tuple(type_map)
    if len(set(names)) != len(names):
        raise DataError(f"type_map ({' '.join(names)}) has a symbol twice, expected every symbol once")
    fields = fields_of_property(property_name)
    dataset = Dataset([system for one in found for system in open_systems(one, names or None, fields)])
    del kept
    return dataset


def type_map_of(found: Found) -> tuple[str, ...] | None:
    """Return the symbols that a system names; None if it does not.

    Raises
    ------
    DataError
        If they cannot be read.
    """
    return database(found.path).type_map if is_lmdb(found.path) else read_type_map(found.path)


def open_systems(
    found: Found, type_map: Sequence[str] | None = None, fields: Sequence[Field] = FIELDS
) -> Iterator[AnySystem]:
    """Yield the systems of one place: one, or those of an LMDB; parameters and errors as in `System`."""
    if is_lmdb(found.path):
        yield from lmdb_systems(found.path, found.name, type_map, fields)
    else:
        yield System(found.path, found.name, type_map, fields)


def _join_type_maps(found: Sequence[Found]) -> tuple[str, ...]:
    names = [name for one in found for name in type_map_of(one) or ()]
    return tuple(dict.fromkeys(names))
