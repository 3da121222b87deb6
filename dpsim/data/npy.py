"""Reading systems in the layouts ``deepmd/npy`` and ``deepmd/npy/mixed``, in folders or in HDF5 (``deepmd/hdf5``).

A system is a folder with ``type.raw``, ``type_map.raw`` and ``set.*`` folders of arrays with one row a frame;
``real_atom_types.npy`` in the sets gives each frame its own types (mixed), an empty file ``nopbc`` open boundaries,
and ``numb_copy.npy`` says how often each frame counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpsim.data.files import CARD, read_json
from dpsim.data.frame import Frame, check_cell, check_finite, formula
from dpsim.data.set_arrays import FrameArrays
from dpsim.data.store import Store, hdf5_group, store_at
from dpsim.errors import DataError
from dpsim.fields import FIELDS, Field

PLAIN, MIXED, HDF5 = "deepmd/npy", "deepmd/npy/mixed", "deepmd/hdf5"


class System:
    """One system: frames with the same number of places for atoms, read when asked for.

    Parameters
    ----------
    path
        Folder with ``type.raw``, or group of an HDF5 file: ``file.hdf5#/group``.
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
        store = store_at(self.path)
        self.periodic = not store.has("nopbc")
        self._file_types = _read_types(store)
        self.n_places = len(self._file_types)
        self.file_type_map = _read_type_map(store)
        sets = store.sets()
        if not sets:
            raise DataError(f"{self.path} has no set.* folder, expected at least set.000: {_hint(store)}")
        self._sets = [FrameArrays(one, self._file_types, self.periodic, self.fields) for one in sets]
        self._offsets = np.cumsum([0] + [len(one.taken) for one in self._sets])
        self._file_offsets = np.cumsum([0] + [one.n_frames for one in self._sets])
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
        """``deepmd/npy``, ``deepmd/npy/mixed`` or ``deepmd/hdf5``."""
        if hdf5_group(self.path) is not None:
            return HDF5
        return MIXED if self.mixed else PLAIN

    @property
    def labels(self) -> dict[str, int]:
        """Number of frames that have each field, for the fields that occur."""
        counts = {
            entry.name: sum(len(one.taken) for one in self._sets if entry.name in one.arrays) for entry in self.fields
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

    def n_atoms(self, i: int) -> int:
        """Return the number of atoms of frame `i`, without placeholders."""
        return len(self.types(i)) if self.mixed else self.n_places

    def formula(self, i: int) -> str:
        """Return the composition of frame `i`, for example ``O64H128``."""
        return formula(self.types(i), self.type_map)

    def origin(self, i: int) -> str:
        """Return what frame `i` was made from; the name of the system where it is not known."""
        if not self._origins:
            return self.name
        one, row = self._locate(i)
        return self._origins[int(self._file_offsets[self._sets.index(one)]) + row]

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
        positions = one.row(one.coord, row).reshape(self.n_places, 3)[real]
        cell = None if one.box is None else one.row(one.box, row).reshape(3, 3)
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

    def _locate(self, i: int) -> tuple[FrameArrays, int]:
        if not 0 <= i < self.n_frames:
            raise IndexError(f"frame {i} of {self.path}, which has {self.n_frames}")
        k = int(np.searchsorted(self._offsets, i, side="right")) - 1
        return self._sets[k], int(self._sets[k].taken[i - int(self._offsets[k])])

    def _raw_types(self, one: FrameArrays, row: int) -> np.ndarray:
        if one.real_types is None:
            return self._file_types
        return one.real_types.read(one.n_frames, row, row + 1)[0].astype(np.int64)

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
            widths = {one.width(entry.name): one for one in self._sets if entry.name in one.arrays}
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

    def _block(self, one: FrameArrays, start: int) -> np.ndarray:
        if one.real_types is None:
            return self._file_types[None]
        stop = min(start + 4096, one.n_frames)
        return np.asarray(one.real_types.read(one.n_frames, start, stop)).astype(np.int64)

    def _types_file(self, one: FrameArrays) -> str:
        return str(self.path / "type.raw") if one.real_types is None else str(one.real_types.path)

    def _bad_index(self, one: FrameArrays, start: int, index: int, names: Sequence[str]) -> None:
        frame = start + int(np.argwhere(self._block(one, start) == index)[0, 0])
        lowest = "-1 (placeholder)" if self.mixed else "0"
        raise DataError(
            f"{self._types_file(one)}: frame {frame} has type {index}, expected {lowest} to {len(names) - 1}: "
            f"the type map has {len(names)} names ({' '.join(names)})"
        )

    def _bad_element(self, one: FrameArrays, start: int, index: int, names: Sequence[str]) -> None:
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
        n_frames = int(self._file_offsets[-1])
        if origins and len(origins) != n_frames:
            raise DataError(
                f"{card} tells of {len(origins)} frames, but the sets hold {n_frames}: "
                "delete this file, or write the system again"
            )
        return origins


def _hint(store: Store) -> str:
    if store.has("coord.raw"):
        return "this is the text format deepmd/raw, run `dpsim data convert` on it first"
    return "frames lie in set.000/coord.npy and so on"


def _read_types(store: Store) -> np.ndarray:
    path = store.path / "type.raw"
    if not store.has("type.raw"):
        raise DataError(f"{path} is missing, expected the type of each atom, counted from 0")
    words = store.words("type.raw")
    for place, word in enumerate(words):
        if not word.lstrip("-").isdigit():
            raise DataError(
                f"{path}: entry {place} is {word!r}, expected integers: the type of each atom, counted from 0"
            )
    if not words:
        raise DataError(f"{path} is empty, expected the type of each atom, counted from 0")
    return np.array([int(word) for word in words], np.int64)


def read_type_map(path: Path) -> tuple[str, ...] | None:
    """Return the symbols of ``type_map.raw`` of a system, None if it has no such file.

    Raises
    ------
    DataError
        If a symbol stands there twice.
    """
    return _read_type_map(store_at(path))


def _read_type_map(store: Store) -> tuple[str, ...] | None:
    if not store.has("type_map.raw"):
        return None
    names = tuple(store.words("type_map.raw"))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{store.path / 'type_map.raw'} has {', '.join(twice)} twice, expected every symbol once")
    return names
