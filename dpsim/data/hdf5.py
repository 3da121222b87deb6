"""Systems in HDF5 files (``deepmd/hdf5``): groups play the folders, data sets the files of the same names."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dpsim.data.arrays import SMALL, cache, check_numbers
from dpsim.errors import DataError

KEPT_FILES = 16
"""Number of files kept open."""

_Result = TypeVar("_Result")


class _Files:
    """The files used last, open for reading; one is closed when it changed on disk or others are needed."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[tuple[int, int], Any]] = OrderedDict()
        self._lock = threading.RLock()

    def use(self, path: Path, work: Callable[[Any], _Result]) -> _Result:
        """Return what `work` makes of the open file; nobody closes it meanwhile."""
        with self._lock:
            try:
                return work(self._file(path))
            except (OSError, RuntimeError, KeyError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"{path} cannot be read as HDF5: {reason}; if it was not written completely, make it again"
                ) from None

    def _file(self, path: Path) -> Any:
        import h5py

        state = path.stat()
        mark = (state.st_mtime_ns, state.st_size)
        kept = self._open.pop(path, None)
        if kept is not None and kept[0] != mark:
            kept[1].close()
            kept = None
        self._open[path] = kept or (mark, h5py.File(path, "r", locking=False))
        while len(self._open) > KEPT_FILES:
            self._open.popitem(last=False)[1][1].close()
        return self._open[path][1]


_files = _Files()


class Group:
    """A group of an HDF5 file.

    Parameters
    ----------
    group
        Its name from the root, ``/`` for the root itself.

    Raises
    ------
    DataError
        If the file cannot be read or has no such group.
    """

    def __init__(self, file: Path, group: str):
        self.file, self.group = file, group.rstrip("/")
        self.path = Path(f"{file}#{group}")
        self._members = _files.use(file, self._kinds)

    def _kinds(self, file: Any) -> dict[str, bool]:
        """Whether each member is a group, by name."""
        import h5py

        node = file.get(self.group or "/")
        if not isinstance(node, h5py.Group):
            names = ", ".join(list(file)[:8]) or "nothing"
            raise DataError(f"{self.file} has no group {self.group!r}, expected one of those it has: {names}")
        return {name: isinstance(node.get(name), h5py.Group) for name in node}

    def has(self, name: str) -> bool:
        """Whether there is a data set of this name."""
        return self._members.get(name) is False

    def array(self, name: str) -> Hdf5Array:
        """Return an array."""
        return Hdf5Array(self.file, f"{self.group}/{name}")

    def words(self, name: str) -> list[str]:
        """Return the entries of a data set as words."""
        values = _files.use(self.file, lambda file: np.ravel(file[f"{self.group}/{name}"][()]))
        text = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
        return [word for line in text for word in line.split()]

    def sets(self) -> list[Group]:
        """Return the groups called ``set.*``."""
        names = sorted(name for name, group in self._members.items() if group and name.startswith("set."))
        return [Group(self.file, f"{self.group}/{name}") for name in names]


class Hdf5Array:
    """A data set of an HDF5 file."""

    def __init__(self, file: Path, name: str):
        self.file, self.name = file, name
        self.path = Path(f"{file}#{name}")
        self.shape, self.dtype = _files.use(file, lambda open_file: _shape(open_file[name]))
        check_numbers(self.path, self.dtype)
        cache.forget(self.path)

    @property
    def count(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self, n_rows: int, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` of the values taken as ``(n_rows, count // n_rows)``."""
        size = self.count * self.dtype.itemsize
        if size <= SMALL:
            return cache.get(self.path, size, lambda: self._take(())).reshape(n_rows, -1)[start:stop]
        width = self.count // n_rows
        flat = slice(start * width, stop * width)  # one line of numbers for all rows
        if self.shape[0] == n_rows:
            return self._take(slice(start, stop)).reshape(-1, width)
        if len(self.shape) == 1:
            return self._take(flat).reshape(-1, width)
        if len(self.shape) == 2 and self.shape[0] == 1:
            return self._take((0, flat)).reshape(-1, width)
        return self._take(()).reshape(n_rows, -1)[start:stop]

    def _take(self, what: Any) -> np.ndarray:
        return _files.use(self.file, lambda file: np.asarray(file[self.name][what]))


def _shape(node: Any) -> tuple[tuple[int, ...], np.dtype]:
    return tuple(int(n) for n in node.shape), np.dtype(node.dtype)


def groups_with(path: Path, group: str, name: str) -> list[str]:
    """Return the groups in and below a group of a file that have a data set of a name, as names from the root.

    Raises
    ------
    DataError
        If the file cannot be read or has no such group.
    """
    found = []
    open_groups = [group.rstrip("/")]
    while open_groups:
        here = open_groups.pop()
        store = Group(path, here or "/")
        if store.has(name):
            found.append(here or "/")
        names = [member for member, inner in store._members.items() if inner]
        open_groups += [f"{here}/{member}" for member in names if not member.startswith((".", "set."))]
    return found
