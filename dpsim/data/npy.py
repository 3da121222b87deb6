"""Reading system folders in the layouts ``deepmd/npy`` and ``deepmd/npy/mixed``.

A system is a folder with ``type.raw``, ``type_map.raw`` and ``set.*`` folders of arrays with one row a frame;
``real_atom_types.npy`` in the sets gives each frame its own types (mixed), an empty file ``nopbc`` open boundaries.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpsim.data.arrays import ArrayFile
from dpsim.data.files import read_json
from dpsim.data.frame import Frame, check_cell, check_finite, formula
from dpsim.errors import DataError
from dpsim.fields import FIELDS, Field

PLAIN, MIXED = "deepmd/npy", "deepmd/npy/mixed"
SELECTABLE = ("atomic_dipole", "atomic_polarizability")
"""Fields whose files may hold the atoms of some types alone, as those of Wannier centres do; the others get zeros."""
CARD = "dataset.json"
"""File beside the arrays that names the format and remembers where the frames came from."""


class System:
    """One system folder: frames with the same number of places for atoms, read when asked for.

    Parameters
    ----------
    path
        Folder with ``type.raw``.
    name
        Name for messages and tables; the name of the folder if empty.
    type_map
        Symbols to which `Frame.types` refer; None takes those of ``type_map.raw``.
    fields
        What is read where it is there.

    Raises
    ------
    DataError
        If a file is missing or has the wrong shape, or an element that occurs is not in `type_map`.
    """

    def __init__(
        self,
        path: str | Path,
        name: str = "",
        type_map: Sequence[str] | None = None,
        fields: Sequence[Field] = FIELDS,
    ):
        self.path, self.fields = Path(path), tuple(fields)
        self.name = name or self.path.name
        self.periodic = not (self.path / "nopbc").exists()
        self._file_types = _read_types(self.path / "type.raw")
        self.n_places = len(self._file_types)
        self.file_type_map = read_type_map(self.path)
        folders = sorted(folder for folder in self.path.glob("set.*") if folder.is_dir())
        if not folders:
            raise DataError(f"{self.path} has no set.* folder, expected at least set.000: {_hint(self.path)}")
        self._sets = [_Set(folder, self._file_types, self.periodic, self.fields) for folder in folders]
        self._offsets = np.cumsum([0] + [one.n_frames for one in self._sets])
        self.n_frames = int(self._offsets[-1])
        self.mixed = self._same_kind()
        self._check_widths()
        self.type_map = self._choose_type_map(type_map)
        self._lookup = self._check_types()
        self._origins = self._read_origins()

    def __len__(self) -> int:
        return self.n_frames

    def __repr__(self) -> str:
        return f"System({str(self.path)!r}, {self.n_frames} frames, {self.format})"

    @property
    def format(self) -> str:
        """``deepmd/npy`` or ``deepmd/npy/mixed``."""
        return MIXED if self.mixed else PLAIN

    @property
    def labels(self) -> dict[str, int]:
        """Number of frames that have each field, for the fields that occur."""
        counts = {
            entry.name: sum(one.n_frames for one in self._sets if entry.name in one.arrays) for entry in self.fields
        }
        return {name: count for name, count in counts.items() if count}

    def has(self, field: str) -> bool:
        """Whether any frame has this field."""
        return any(field in one.arrays for one in self._sets)

    def types(self, i: int) -> np.ndarray:
        """Return the types of frame `i`, ``(n_atoms,)`` indices into `type_map`, without placeholders."""
        one, row = self._locate(i)
        types = self._lookup[self._raw_types(one, row)]
        return types[types >= 0]

    def formula(self, i: int) -> str:
        """Return the composition of frame `i`, for example ``O64H128``."""
        return formula(self.types(i), self.type_map)

    def origin(self, i: int) -> str:
        """Return what frame `i` was made from; the name of the system where it is not known."""
        self._locate(i)
        return self._origins[i] if self._origins else self.name

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
            If a value is not finite, or the box has no volume.
        """
        one, row = self._locate(i)
        where = f"{self.name}/{one.path.name}#{row}"
        types = self._lookup[self._raw_types(one, row)]
        real = types >= 0
        types = types[real]
        positions = _row(one.coord, one.n_frames, row).reshape(self.n_places, 3)[real]
        cell = None if one.box is None else _row(one.box, one.n_frames, row).reshape(3, 3)
        if check:
            check_finite(positions, "coordinates", where)
            check_cell(cell, len(types), where)
        labels = {}
        for entry in self.fields:
            if entry.name in one.arrays:
                value = one.value(entry, row, real)
                if check:
                    check_finite(value, entry.name, where)
                labels[entry.name] = value
        return Frame(positions, types, cell, labels, where, self.origin(i))

    def _locate(self, i: int) -> tuple[_Set, int]:
        if not 0 <= i < self.n_frames:
            raise IndexError(f"frame {i} of {self.path}, which has {self.n_frames}")
        k = int(np.searchsorted(self._offsets, i, side="right")) - 1
        return self._sets[k], i - int(self._offsets[k])

    def _raw_types(self, one: _Set, row: int) -> np.ndarray:
        if one.real_types is None:
            return self._file_types
        return one.real_types.rows(one.n_frames)[row].astype(np.int64)

    def _same_kind(self) -> bool:
        kinds = {one.real_types is not None: one for one in self._sets}
        if len(kinds) == 2:
            raise DataError(
                f"{kinds[False].path} has no real_atom_types.npy but {kinds[True].path} has: "
                "all sets of a system must be of one kind, separate them into two folders"
            )
        return True in kinds

    def _check_widths(self) -> None:
        for entry in self.fields:
            widths = {
                _width(one.arrays[entry.name], one.n_frames): one for one in self._sets if entry.name in one.arrays
            }
            if len(widths) > 1:
                (_, first), (_, second) = sorted(widths.items())[:2]
                raise DataError(
                    f"{second.arrays[entry.name].path} has {max(widths)} values a frame but "
                    f"{first.arrays[entry.name].path} has {min(widths)}: all sets of a system must agree"
                )

    def _choose_type_map(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        if asked is not None:
            return tuple(asked)
        if self.file_type_map is None:
            raise DataError(
                f"{self.path} has no type_map.raw, so the elements of type.raw are not known: "
                "add the file (one symbol a line) or give type_map"
            )
        return self.file_type_map

    def _check_types(self) -> np.ndarray:
        """Return the table from file index to index in `type_map`; the last entry serves placeholders (-1)."""
        names = self.file_type_map if self.file_type_map is not None else self.type_map
        table = np.array([self.type_map.index(name) if name in self.type_map else -2 for name in names] + [-1])
        for one in self._sets:
            known = np.zeros(len(names) + 1, bool)  # looked up in blocks, so that a set may exceed memory
            for start in range(0, one.n_frames if self.mixed else min(one.n_frames, 1), 4096):
                raw = self._block(one, start)
                low, high = (int(raw.min()), int(raw.max())) if raw.size else (0, -1)
                if low < (-1 if self.mixed else 0) or high >= len(names):
                    self._bad_index(one, start, low if low < -1 or (low < 0 and not self.mixed) else high, names)
                present = np.unique(raw)
                fresh = present[~known[present]]
                known[present] = True
                for index in fresh[table[fresh] == -2]:
                    self._bad_element(one, start, int(index), names)
        return table

    def _block(self, one: _Set, start: int) -> np.ndarray:
        if one.real_types is None:
            return self._file_types[None]
        return np.asarray(one.real_types.rows(one.n_frames)[start : start + 4096]).astype(np.int64)

    def _types_file(self, one: _Set) -> str:
        return str(self.path / "type.raw") if one.real_types is None else str(one.real_types.path)

    def _bad_index(self, one: _Set, start: int, index: int, names: Sequence[str]) -> None:
        frame = start + int(np.argwhere(self._block(one, start) == index)[0, 0])
        lowest = "-1 (placeholder)" if self.mixed else "0"
        raise DataError(
            f"{self._types_file(one)}: frame {frame} has type {index}, expected {lowest} to {len(names) - 1}: "
            f"the type map has {len(names)} names ({' '.join(names)})"
        )

    def _bad_element(self, one: _Set, start: int, index: int, names: Sequence[str]) -> None:
        frame = start + int(np.argwhere(self._block(one, start) == index)[0, 0])
        raise DataError(
            f"{self._types_file(one)}: frame {frame} of {one.path.name} has element {names[index]}, "
            f"which is not in the type_map ({' '.join(self.type_map)}): add it there or leave this system out"
        )

    def _read_origins(self) -> list[str]:
        card = self.path / CARD
        if not card.is_file():
            return []
        stored = read_json(card)
        if stored.get("format", self.format) != self.format:
            raise DataError(
                f"{card} names the format {stored['format']}, but the arrays are {self.format} "
                f"(real_atom_types.npy {'present' if self.mixed else 'absent'}): restore the arrays or delete this file"
            )
        runs = stored.get("origins", [])
        origins = [origin for origin, count in runs for _ in range(count)]
        if origins and len(origins) != self.n_frames:
            raise DataError(
                f"{card} tells of {len(origins)} frames, but the sets hold {self.n_frames}: "
                "delete this file, or write the system again"
            )
        return origins


class _Set:
    """The arrays of one ``set.*`` folder, shapes checked."""

    def __init__(self, path: Path, types: np.ndarray, periodic: bool, fields: Sequence[Field]):
        n_places = len(types)
        self.path = path
        self.coord = _array(path, "coord", "the coordinates of the frames")
        self.n_frames = self.coord.shape[0] if len(self.coord.shape) > 1 else 1
        self._expect(self.coord, (n_places, 3), f"{n_places} atoms in type.raw, 3 components each")
        self.box: ArrayFile | None = None
        if periodic:
            self.box = _array(path, "box", "cells; for open boundaries put an empty file `nopbc` beside type.raw")
            self._expect(self.box, (9,), "9 numbers for each frame")
        self.real_types: ArrayFile | None = None
        if (path / "real_atom_types.npy").exists():
            self.real_types = _array(path, "real_atom_types", "types")
            self._expect(self.real_types, (n_places,), f"{n_places} atoms in type.raw")
        self.arrays: dict[str, ArrayFile] = {}
        self.selected: dict[str, np.ndarray] = {}
        for entry in fields:
            there = [name for name in entry.files if (path / f"{name}.npy").exists()]
            if len(there) > 1:
                raise DataError(f"{path} has {there[0]}.npy and {there[1]}.npy, which mean the same: remove one")
            if there:
                self.arrays[entry.name] = self._field(entry, there[0], types)

    def _field(self, entry: Field, file: str, types: np.ndarray) -> ArrayFile:
        array, n_places = _array(self.path, file, entry.name), len(types)
        places = (n_places,) if entry.kind == "atom" else ()
        components = int(np.prod([n for n in entry.shape if n > 0], dtype=np.int64))
        if entry.name in SELECTABLE and self.real_types is None and self.n_frames:
            chosen = _of_some_types(types, array.count / (self.n_frames * components))
            if chosen is not None:
                self.selected[entry.name] = chosen
                places = (int(chosen.sum()),)
        reason = f"{n_places} atoms in type.raw, " if entry.kind == "atom" else ""
        number = "any number of components" if -1 in entry.shape else f"{components} component{'s' * (components != 1)}"
        self._expect(array, (*places, *entry.shape), f"{reason}{number} {'each' if places else 'for each frame'}")
        return array

    def value(self, entry: Field, row: int, real: np.ndarray) -> np.ndarray:
        """Value of a field of one frame, for the `real` places."""
        flat = _row(self.arrays[entry.name], self.n_frames, row)
        if entry.kind == "frame":
            return flat.reshape(entry.shape)
        if entry.name not in self.selected:
            return flat.reshape(len(real), *entry.shape)[real]
        full = np.zeros((len(real), *entry.shape))
        full[self.selected[entry.name]] = flat.reshape(-1, *entry.shape)
        return full[real]

    def _expect(self, array: ArrayFile, value: tuple[int, ...], reason: str) -> None:
        size = int(np.prod([n for n in value if n > 0], dtype=np.int64))
        shape, rows = array.shape, self.n_frames
        flat = len(shape) < 2 or shape[0] == 1  # one line of numbers for the whole set, as older tools write
        fits = array.count % (rows * size) == 0 if -1 in value and rows * size else array.count == rows * size
        if not fits or not (flat or shape[0] == rows) or (array.count == 0 and rows * size > 0):
            width = f"{size}*n" if -1 in value else str(size)
            raise DataError(
                f"{self.path.parent.name}/{self.path.name}/{array.path.name} has shape {shape}, "
                f"expected ({rows}, {width}): {reason}"
            )


def _array(folder: Path, name: str, meaning: str) -> ArrayFile:
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise DataError(f"{path} is missing, expected {meaning}")
    return ArrayFile(path)


def _row(array: ArrayFile, n_frames: int, row: int) -> np.ndarray:
    return np.array(array.rows(n_frames)[row], np.float64)


def _width(array: ArrayFile, n_frames: int) -> int:
    return array.count // n_frames if n_frames else 0


def _of_some_types(types: np.ndarray, count: float) -> np.ndarray | None:
    """Places of the types whose atoms are as many as `count`; None unless just one choice of types fits."""
    kinds, sizes = np.unique(types, return_counts=True)
    if count >= len(types) or count <= 0 or len(kinds) > 12:
        return None
    choices = itertools.product((False, True), repeat=len(kinds))
    fitting = [choice for choice in choices if sizes[list(choice)].sum() == count]
    return np.isin(types, kinds[list(fitting[0])]) if len(fitting) == 1 else None


def _hint(path: Path) -> str:
    if (path / "coord.raw").exists():
        return "this is the text format deepmd/raw, run `dpsim data convert` on it first"
    return "frames lie in set.000/coord.npy and so on"


def _read_types(path: Path) -> np.ndarray:
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    for place, word in enumerate(words):
        if not word.lstrip("-").isdigit():
            raise DataError(
                f"{path}: entry {place} is {word!r}, expected integers: the type of each atom, counted from 0"
            )
    if not words:
        raise DataError(f"{path} is empty, expected the type of each atom, counted from 0")
    return np.array([int(word) for word in words], np.int64)


def read_type_map(path: Path) -> tuple[str, ...] | None:
    """Return the symbols of ``type_map.raw`` of a system folder, None if it has no such file.

    Raises
    ------
    DataError
        If a symbol stands there twice.
    """
    file = path / "type_map.raw"
    if not file.is_file():
        return None
    names = tuple(file.read_text(encoding="utf-8").split())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file} has {', '.join(twice)} twice, expected every symbol once")
    return names
