"""Data sets of DeePMD-kit in LMDB: one record a frame, of any size and composition, read when asked for.

``__metadata__`` tells the number of frames, the type map, the atoms of each frame and the system it belongs to; a
record is a msgpack map from names (``coords``, ``cells``, ``energies``, ``forces``, ``virials``, ``atom_types``, or
those of the ``.npy`` files) to arrays ``{type, shape, data}``. A frame without ``cells`` has open boundaries.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.data.frame import Frame, check_cell, check_finite, formula
from dpsim.errors import DataError, SetupError
from dpsim.fields import FIELDS, Field

LMDB = "deepmd/lmdb"
DATA = "data.mdb"
"""The file of an LMDB folder that holds the records."""
METADATA = b"__metadata__"
"""Key of the record that describes the others."""
SHORT = {
    "coords": "coord", "cells": "box", "energies": "energy", "forces": "force", "virials": "virial",
    "atom_types": "atype",
}  # fmt: skip
"""Names of records that differ from those of the ``.npy`` files."""


def is_lmdb(path: Path) -> bool:
    """Whether a path is the folder of an LMDB."""
    return path.is_dir() and (path.suffix == ".lmdb" or (path / DATA).is_file())


class Database:
    """An LMDB, open for reading; it may be larger than memory.

    Raises
    ------
    DataError
        If it cannot be read, or is not whole.
    SetupError
        If the packages that read it are missing.
    """

    def __init__(self, path: Path):
        self.path = path
        lmdb = package("lmdb", path)
        self._msgpack = package("msgpack", path)
        try:
            self._environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
        except (lmdb.Error, OSError) as error:
            raise DataError(f"{path} cannot be read as LMDB: {error}; make it again, or name another folder") from None
        self._check_size()
        metadata = self._unpack(METADATA, "the description of the data (__metadata__)")
        self.n_frames = self._number(metadata, "nframes")
        self._key = str(metadata.get("frame_idx_fmt", "012d"))
        if not re.fullmatch(r"0?\d{0,2}d", self._key):
            raise DataError(f"{path}: frame_idx_fmt is {self._key!r}, expected a width of whole numbers such as 012d")
        names = metadata.get("type_map")
        self.type_map = None if names is None else tuple(map(str, names))
        self.n_atoms = self._table(metadata, "frame_nlocs")
        self.system_ids = self._table(metadata, "frame_system_ids")
        if self.n_frames:
            self.record(self.n_frames - 1)  # the last one written

    def record(self, i: int) -> dict[str, Any]:
        """Return the entries of frame `i`, arrays not yet made.

        Raises
        ------
        DataError
            If it is missing or damaged.
        """
        return self._unpack(format(i, self._key).encode(), f"frame {i}")

    def _check_size(self) -> None:
        """Refuse a file that ends too early: reading behind its end would kill the process."""
        information, page = self._environment.info(), self._environment.stat()["psize"]
        expected, size = (information["last_pgno"] + 1) * page, (self.path / DATA).stat().st_size
        if size < expected:
            raise DataError(
                f"{self.path / DATA} ends after {size} of {expected} bytes: it was not written completely, "
                "make it again"
            )

    def _unpack(self, key: bytes, what: str) -> dict[str, Any]:
        try:
            with self._environment.begin() as transaction:
                raw = transaction.get(key)
            value = None if raw is None else self._msgpack.unpackb(raw, raw=False, strict_map_key=False)
        except Exception as error:  # of the database, or whatever the parser meets
            reason = str(error) or type(error).__name__
            raise DataError(f"{self.path}: {what} is damaged ({reason}): make the data again") from None
        if raw is None:
            raise DataError(f"{self.path} lacks {what} (key {key.decode()!r}): it was not written completely")
        if not isinstance(value, dict):
            raise DataError(f"{self.path}: {what} is a {type(value).__name__}, expected a map from names to values")
        return {name.decode() if isinstance(name, bytes) else str(name): entry for name, entry in value.items()}

    def _number(self, metadata: dict[str, Any], name: str) -> int:
        value = metadata.get(name)
        if not isinstance(value, int) or value < 0:
            raise DataError(f"{self.path}: {name} is {value!r}, expected the number of frames")
        return value

    def _table(self, metadata: dict[str, Any], name: str) -> np.ndarray | None:
        values = metadata.get(name)
        if values is None:
            return None
        table = np.asarray(values)
        if table.shape != (self.n_frames,) or table.dtype.kind not in "iu" or table.min(initial=0) < 0:
            raise DataError(f"{self.path}: {name} has {len(values)} entries, expected {self.n_frames} whole numbers")
        return table


_open: weakref.WeakValueDictionary[Path, Database] = weakref.WeakValueDictionary()


def database(path: Path) -> Database:
    """Return an LMDB; a process may open each only once, so all who use it share it."""
    key = path.resolve()
    found = _open.get(key)
    if found is None:
        found = _open[key] = Database(path)
    return found


def package(name: str, path: Path) -> Any:
    """Import what LMDBs are read and written with.

    Raises
    ------
    SetupError
        If it is missing.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise SetupError(
            f"{path}: the Python package {name!r}, with which LMDB data are read and written, is missing: "
            "run pip install lmdb msgpack"
        ) from None


class LmdbSystem:
    """Frames of one system of an LMDB.

    Parameters
    ----------
    data
        Where they lie.
    frames
        Their numbers there.
    name
        Name for messages and tables.
    type_map
        Symbols to which `Frame.types` refer; None takes those of the data.
    fields
        What is read where it is there.

    Raises
    ------
    DataError
        If neither the data nor the caller name the elements.
    """

    format = LMDB
    mixed = True

    def __init__(
        self,
        data: Database,
        frames: np.ndarray,
        name: str,
        type_map: Sequence[str] | None = None,
        fields: Sequence[Field] = FIELDS,
    ):
        self.data, self.path, self.name, self.fields = data, data.path, name, tuple(fields)
        self._frames = frames
        self.n_frames = len(frames)
        names = data.type_map if data.type_map is not None else type_map
        if names is None:
            raise DataError(f"{data.path} has no type_map, so the elements of its types are not known: give type_map")
        self.type_map = tuple(names if type_map is None else type_map)
        self.file_type_map = tuple(names)
        table = [self.type_map.index(symbol) if symbol in self.type_map else -2 for symbol in names]
        self._lookup = np.array([*table, -1], np.int64)  # the last entry serves placeholders
        self._field_of = {file: entry for entry in self.fields for file in entry.files}

    def __len__(self) -> int:
        return self.n_frames

    def __repr__(self) -> str:
        return f"LmdbSystem({str(self.path)!r}, {self.n_frames} frames)"

    @property
    def periodic(self) -> bool:
        """Whether the first frame has a cell."""
        return self.n_frames > 0 and "box" in self._entries(0)

    @cached_property
    def labels(self) -> dict[str, int]:
        """Number of frames that have each field, for the fields that occur; found by a pass over all records."""
        counts: dict[str, int] = {}
        for i in range(self.n_frames):
            for name in self._present(self._entries(i)):
                counts[name] = counts.get(name, 0) + 1
        return {entry.name: counts[entry.name] for entry in self.fields if entry.name in counts}

    def has(self, field: str) -> bool:
        """Whether any frame has this field."""
        return any(field in self._present(self._entries(i)) for i in range(self.n_frames))

    def types(self, i: int) -> np.ndarray:
        """Return the types of frame `i`, ``(n_atoms,)`` indices into `type_map`, without placeholders."""
        types = self._all_types(i, self._entries(i))
        return types[types >= 0]

    def n_atoms(self, i: int) -> int:
        """Return the number of atoms of frame `i`."""
        known = self.data.n_atoms
        return len(self.types(i)) if known is None else int(known[self._number(i)])

    def formula(self, i: int) -> str:
        """Return the composition of frame `i`, for example ``O64H128``."""
        return formula(self.types(i), self.type_map)

    def origin(self, i: int) -> str:
        """Return the name of the system: an LMDB does not tell what a frame was made from."""
        self._number(i)
        return self.name

    def frame(self, i: int, *, check: bool = True) -> Frame:
        """Read frame `i`.

        Parameters
        ----------
        i
            Index in this system.
        check
            Whether values are examined; only inspection has a reason not to.

        Raises
        ------
        DataError
            If the record is missing or damaged, an element unknown, a value not finite, or the box has no volume.
        """
        entries, where = self._entries(i), self._where(i)
        types = self._all_types(i, entries)
        real, n = types >= 0, len(types)
        positions = self._array(entries, "coord", (n, 3), where)[real]
        cell = self._array(entries, "box", (3, 3), where) if "box" in entries else None
        if check:
            check_finite(positions, "coordinates", where)
            check_cell(cell, int(real.sum()), where)
        labels = {}
        for name, file in self._present(entries).items():
            entry = self._field_of[file]
            shape = entry.of_frame(n)
            value = self._array(entries, file, shape, where)
            labels[name] = entry.of_atoms(value, real)
            if check:
                check_finite(labels[name], name, where)
        ordered = {entry.name: labels[entry.name] for entry in self.fields if entry.name in labels}
        return Frame(positions, types[real], cell, ordered, where, self.name)

    def _number(self, i: int) -> int:
        if not 0 <= i < self.n_frames:
            raise IndexError(f"frame {i} of {self.name}, which has {self.n_frames}")
        return int(self._frames[i])

    def _where(self, i: int) -> str:
        return f"{self.path}#{self._number(i)}"

    def _entries(self, i: int) -> dict[str, Any]:
        """The record of frame `i` under the names of the ``.npy`` files."""
        record = self.data.record(self._number(i))
        for long, short in SHORT.items():
            if long in record and short in record:
                raise DataError(f"{self._where(i)}: has {long} and {short}, which mean the same: write one")
        return {SHORT.get(name, name): value for name, value in record.items()}

    def _present(self, entries: dict[str, Any]) -> dict[str, str]:
        """Name in the record of every field that the frame has: ``find_x`` of 0 means that it does not count."""
        found: dict[str, str] = {}
        for file, value in entries.items():
            entry = self._field_of.get(file)
            if entry is None or value is None or any(_is_zero(entries.get(f"find_{name}")) for name in entry.files):
                continue
            if entry.name in found:
                raise DataError(f"{self.path}: a frame has {found[entry.name]} and {file}, which mean the same")
            found[entry.name] = file
        return found

    def _all_types(self, i: int, entries: dict[str, Any]) -> np.ndarray:
        where = self._where(i)
        raw = self._array(entries, "atype", (-1,), where).astype(np.int64)
        names = self.file_type_map
        if raw.min(initial=0) < -1 or raw.max(initial=-1) >= len(names):
            raise DataError(
                f"{where}: types run from {raw.min()} to {raw.max()}, expected 0 to {len(names) - 1}: "
                f"the type map has {len(names)} names ({' '.join(names)})"
            )
        types = self._lookup[raw]
        if types.min(initial=0) == -2:
            unknown = ", ".join(sorted({names[t] for t in raw[types == -2]}))
            raise DataError(
                f"{where}: has element {unknown}, which is not in the type_map ({' '.join(self.type_map)}): "
                "add it there or leave this frame out"
            )
        return types

    def _array(self, entries: dict[str, Any], name: str, shape: tuple[int, ...], where: str) -> np.ndarray:
        if name not in entries:
            raise DataError(f"{where}: {name} is missing, expected coordinates and types in every frame")
        value = _decode(entries[name], f"{where}: {name}")
        size = int(np.prod([n for n in shape if n > 0], dtype=np.int64))
        fits = value.size % size == 0 if -1 in shape and size else value.size == size
        if not fits:
            wanted = "x".join("n" if n < 0 else str(n) for n in shape) or "1"
            raise DataError(f"{where}: {name} has shape {value.shape}, expected {wanted} numbers")
        return value.astype(np.float64).reshape(shape)


def _is_zero(value: Any) -> bool:
    if value is None:
        return False
    return float(_decode(value, "find").ravel()[0]) == 0.0


def _decode(value: Any, what: str) -> np.ndarray:
    """Array of a record: a number, a list of numbers, or ``{type, shape, data}`` with the bytes of an array."""
    try:
        if isinstance(value, dict):
            plain = {key.decode() if isinstance(key, bytes) else key: entry for key, entry in value.items()}
            kind = np.dtype(plain["type"])
            if kind.kind not in "fiub":
                raise ValueError(f"type {kind} instead of numbers")
            array = np.frombuffer(plain["data"], kind)
            return array.reshape(plain["shape"]) if "shape" in plain else array
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{type(value).__name__} instead of numbers")
        return array
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{what} cannot be read ({error}): the record is damaged, make the data again") from None


def lmdb_systems(
    path: Path, name: str, type_map: Sequence[str] | None = None, fields: Sequence[Field] = FIELDS
) -> Iterator[LmdbSystem]:
    """Yield the systems of an LMDB in the order of their numbers; one system if it does not number them.

    Parameters and errors as in `Database` and `LmdbSystem`.
    """
    data = database(path)
    if data.system_ids is None:
        yield LmdbSystem(data, np.arange(data.n_frames), name, type_map, fields)
        return
    order = np.argsort(data.system_ids, kind="stable")
    ends = np.searchsorted(data.system_ids[order], np.arange(int(data.system_ids.max(initial=0)) + 2))
    several = len(ends) > 2
    for k, (start, stop) in enumerate(itertools.pairwise(ends)):
        yield LmdbSystem(data, order[start:stop], f"{name}/{k}" if several else name, type_map, fields)
