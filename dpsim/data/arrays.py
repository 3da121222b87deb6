"""Arrays in files larger than memory, from any number of systems, with a bounded number of open files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from dpsim.errors import DataError

SMALL = 1 << 20
"""Bytes up to which an array is read whole; of larger ones only the rows asked for are."""
KEPT_BYTES = 512 << 20
"""Bytes of small arrays that are kept in memory."""
KEPT_MAPS = 128
"""Number of memory maps kept open: each holds a file descriptor, and the usual limit is 1024."""


class Array(Protocol):
    """Numbers in a file: their shape is known at once, rows are read when they are asked for."""

    path: Path
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        ...

    def read(self, n_rows: int, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` of the values taken as ``(n_rows, count // n_rows)``."""
        ...


class _Cache:
    """The arrays used last, by path; shared by all systems of the process."""

    def __init__(self) -> None:
        self._small: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._maps: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, path: Path, size: int, load: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            store = self._small if size <= SMALL else self._maps
            if path in store:
                store.move_to_end(path)
                return store[path]
            array = store[path] = load()
            if store is self._small:
                self._bytes += size
            while self._bytes > KEPT_BYTES and len(self._small) > 1:
                self._bytes -= self._small.popitem(last=False)[1].nbytes
            while len(self._maps) > KEPT_MAPS:
                self._maps.popitem(last=False)
            return array

    def forget(self, path: Path) -> None:
        with self._lock:
            self._maps.pop(path, None)
            if path in self._small:
                self._bytes -= self._small.pop(path).nbytes


cache = _Cache()


def check_numbers(path: Path, dtype: np.dtype) -> None:
    """Refuse arrays of anything but real numbers.

    Raises
    ------
    DataError
        Naming the type found.
    """
    if dtype.kind not in "fiu":
        raise DataError(f"{path} holds values of type {dtype}, expected real numbers")


class ArrayFile:
    """One ``.npy`` file, memory-mapped if it is large (unless stored column by column)."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as stream:
                version = np.lib.format.read_magic(stream)
                reader = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                self.shape, self._fortran, self.dtype = reader(stream)
                expected = stream.tell() + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a numpy array: {error}") from None
        check_numbers(path, self.dtype)
        size = path.stat().st_size
        if size < expected:
            raise DataError(
                f"{path} ends after {size} of {expected} bytes: it was not written completely, make it again"
            )
        self._size = expected
        cache.forget(path)

    @property
    def count(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    def rows(self, n_rows: int) -> np.ndarray:
        """Return the values as ``(n_rows, count // n_rows)``, memory-mapped if they are many."""
        return cache.get(self.path, self._size, self._load).reshape(n_rows, -1)

    def read(self, n_rows: int, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` of the values taken as ``(n_rows, count // n_rows)``."""
        return self.rows(n_rows)[start:stop]

    def _load(self) -> np.ndarray:
        whole = self._size <= SMALL or self._fortran
        array: np.ndarray = np.load(self.path, mmap_mode=None if whole else "r", allow_pickle=False)
        return np.ascontiguousarray(array) if self._fortran else array
