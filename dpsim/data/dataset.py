"""A data set: all systems below some folders, with one type map."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dpsim.data.frame import Frame
from dpsim.data.npy import System, read_type_map
from dpsim.errors import DataError
from dpsim.fields import fields_of_property

__all__ = ["Dataset", "System", "find_systems", "open_dataset"]


class Dataset:
    """Frames of several systems in one row; arrays stay on disk until a frame is read.

    Parameters
    ----------
    systems
        With the same `type_map`.
    """

    def __init__(self, systems: Sequence[System]):
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

    def locate(self, i: int) -> tuple[System, int]:
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
        System folders (they hold ``type.raw``), or folders that are searched for such. A system that is
        reached twice is taken once.
    type_map
        Symbols to which `Frame.types` shall refer. None joins the maps of the systems, in the order met.
    patterns
        If given, only systems whose path below the searched folder matches one of these globs.
    property_name
        The field ``property`` is read from ``<property_name>.npy``.

    Raises
    ------
    DataError
        If a folder is missing, holds no system, or a system is malformed or has an element outside `type_map`.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise DataError("no data were given, expected at least one folder with a system (type.raw)")
    found = [pair for path in given for pair in find_systems(Path(path), patterns)]
    unique = {os.path.realpath(path): (path, name) for path, name in reversed(found)}
    ordered = [unique[key] for key in dict.fromkeys(os.path.realpath(path) for path, _ in found)]
    names = _join_type_maps([path for path, _ in ordered]) if type_map is None else tuple(type_map)
    if len(set(names)) != len(names):
        raise DataError(f"type_map ({' '.join(names)}) has a symbol twice, expected every symbol once")
    fields = fields_of_property(property_name)
    return Dataset([System(path, name, names or None, fields) for path, name in ordered])


def find_systems(path: Path, patterns: Sequence[str] = ()) -> list[tuple[Path, str]]:
    """Return folder and name of all systems in or below a folder, in natural order; hidden folders are passed over.

    Raises
    ------
    DataError
        If the folder is missing or has no system.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist, expected a folder with a system (type.raw) in or below it")
    if not path.is_dir():
        raise DataError(f"{path} is a file, expected a system folder: run `dpsim data convert` on it first")
    found = []
    for root, folders, files in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "set."))]
        below = Path(root).relative_to(path)
        if "type.raw" in files and (not patterns or any(below.match(pattern) for pattern in patterns)):
            found.append((Path(root), (Path(path.resolve().name) / below).as_posix()))
    if not found:
        among = f" that matches {', '.join(patterns)}" if patterns else ""
        raise DataError(f"{path} holds no system{among}, expected a folder with type.raw in or below it")
    return sorted(found, key=lambda pair: _natural(pair[1]))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _join_type_maps(paths: Sequence[Path]) -> tuple[str, ...]:
    names = [name for path in paths for name in read_type_map(path) or ()]
    return tuple(dict.fromkeys(names))
