"""One ``set.*`` of a system: arrays with one row a frame, their shapes checked against ``type.raw``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from dpsim.data.arrays import Array
from dpsim.data.store import Store
from dpsim.errors import DataError
from dpsim.fields import Field

SELECTABLE = ("atomic_dipole", "atomic_polarizability")
"""Fields whose files may hold the atoms of some types alone, as those of Wannier centres do; the others get zeros."""


class FrameArrays:
    """The arrays of one ``set.*``.

    Parameters
    ----------
    store
        Where they lie.
    types
        What ``type.raw`` says.
    periodic
        Whether there must be cells.
    fields
        What is read where it is there.

    Raises
    ------
    DataError
        If an array is missing, cannot be read, or has the wrong shape.
    """

    def __init__(self, store: Store, types: np.ndarray, periodic: bool, fields: Sequence[Field]):
        n_places = len(types)
        self.store, self.path = store, store.path
        self.coord = self._array("coord", "the coordinates of the frames")
        self.n_frames = self.coord.shape[0] if len(self.coord.shape) > 1 else 1
        self._expect(self.coord, (n_places, 3), f"{n_places} atoms in type.raw, 3 components each")
        self.box: Array | None = None
        if periodic:
            self.box = self._array("box", "cells; for open boundaries put an empty file `nopbc` beside type.raw")
            self._expect(self.box, (9,), "9 numbers for each frame")
        self.real_types: Array | None = None
        if store.has("real_atom_types.npy"):
            self.real_types = self._array("real_atom_types", "types")
            self._expect(self.real_types, (n_places,), f"{n_places} atoms in type.raw")
        self.arrays: dict[str, Array] = {}
        self.selected: dict[str, np.ndarray] = {}
        for entry in fields:
            there = [name for name in entry.files if store.has(f"{name}.npy")]
            if len(there) > 1:
                raise DataError(f"{self.path} has {there[0]}.npy and {there[1]}.npy, which mean the same: remove one")
            if there:
                self.arrays[entry.name] = self._field(entry, there[0], types)
        self.taken = self._copies()

    def row(self, array: Array, i: int) -> np.ndarray:
        """Values of row `i`, float64."""
        return np.array(array.read(self.n_frames, i, i + 1)[0], np.float64)

    def width(self, name: str) -> int:
        """Number of values a frame of a field."""
        return self.arrays[name].count // self.n_frames if self.n_frames else 0

    def value(self, entry: Field, row: int, real: np.ndarray) -> np.ndarray:
        """Value of a field of one frame, for the `real` places."""
        flat = self.row(self.arrays[entry.name], row)
        if entry.name not in self.selected:
            return entry.of_atoms(flat.reshape(entry.of_frame(len(real))), real)
        full = np.zeros((len(real), *entry.shape))
        full[self.selected[entry.name]] = flat.reshape(-1, *entry.shape)
        return full[real]

    def _array(self, name: str, meaning: str) -> Array:
        if not self.store.has(f"{name}.npy"):
            raise DataError(f"{self.path / name}.npy is missing, expected {meaning}")
        return self.store.array(f"{name}.npy")

    def _copies(self) -> np.ndarray:
        """Rows in the order in which they count, each as often as ``numb_copy.npy`` says."""
        rows = np.arange(self.n_frames)
        if not self.store.has("numb_copy.npy"):
            return rows
        array = self.store.array("numb_copy.npy")
        self._expect(array, (), "how often each frame counts")
        copies = array.read(self.n_frames, 0, self.n_frames).ravel()
        bad = np.flatnonzero(~((copies >= 0) & (copies == np.floor(copies)) & (copies < np.inf)))
        if len(bad):
            raise DataError(
                f"{array.path}: frame {bad[0]} counts {copies[bad[0]]} times, expected a whole number of at least 0"
            )
        return np.repeat(rows, copies.astype(np.int64))

    def _field(self, entry: Field, file: str, types: np.ndarray) -> Array:
        array, n_places = self.store.array(f"{file}.npy"), len(types)
        if entry.kind == "pair":
            rows, columns = entry.of_frame(n_places)
            self._expect(array, (rows, columns), f"{n_places} atoms in type.raw, {rows} x {columns} numbers each frame")
            return array
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

    def _expect(self, array: Array, value: tuple[int, ...], reason: str) -> None:
        size = int(np.prod([n for n in value if n > 0], dtype=np.int64))
        shape, rows = array.shape, self.n_frames
        flat = len(shape) < 2 or shape[0] == 1  # one line of numbers for the whole set, as older tools write
        fits = array.count % (rows * size) == 0 if -1 in value and rows * size else array.count == rows * size
        if not fits or not (flat or shape[0] == rows) or (array.count == 0 and rows * size > 0):
            width = f"{size}*n" if -1 in value else str(size)
            raise DataError(f"{array.path} has shape {shape}, expected ({rows}, {width}): {reason}")


def _of_some_types(types: np.ndarray, count: float) -> np.ndarray | None:
    """Places of the types whose atoms are as many as `count`; None unless just one choice of types fits."""
    kinds, sizes = np.unique(types, return_counts=True)
    if count >= len(types) or count <= 0 or len(kinds) > 12:
        return None
    choices = itertools.product((False, True), repeat=len(kinds))
    fitting = [choice for choice in choices if sizes[list(choice)].sum() == count]
    return np.isin(types, kinds[list(fitting[0])]) if len(fitting) == 1 else None
