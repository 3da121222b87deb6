"""Where the files of a system lie: a folder, or a group of an HDF5 file whose data sets play the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dpsim.data.arrays import Array, ArrayFile
from dpsim.errors import DataError

HDF5_SUFFIXES = (".hdf5", ".h5")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Store(Protocol):
    """Named arrays and words, and the stores of the sets within."""

    path: Path
    """For messages; inside of HDF5 ``file.hdf5#/group``."""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def array(self, name: str) -> Array:
        """Return an array.

        Raises
        ------
        DataError
            If it cannot be read, or holds no real numbers.
        """
        ...

    def words(self, name: str) -> list[str]:
        """Return the words of a text.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        ...

    def sets(self) -> Sequence[Store]:
        """Return the stores called ``set.*``, in the order of their names."""
        ...


class Folder:
    """A folder of ``.npy`` and text files."""

    def __init__(self, path: Path):
        self.path = path

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self.path / name).exists()

    def array(self, name: str) -> ArrayFile:
        """Return an array."""
        return ArrayFile(self.path / name)

    def words(self, name: str) -> list[str]:
        """Return the words of a text."""
        try:
            return (self.path / name).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path / name} cannot be read: {error}") from None

    def sets(self) -> list[Folder]:
        """Return the folders called ``set.*``."""
        return [Folder(path) for path in sorted(self.path.glob("set.*")) if path.is_dir()]


def store_at(path: Path) -> Store:
    """Return the store of a folder, an HDF5 file, or a group ``file.hdf5#/group``.

    Raises
    ------
    DataError
        If the HDF5 file cannot be read or has no such group.
    """
    inside = hdf5_group(path)
    if inside is None:
        return Folder(path)
    from dpsim.data.hdf5 import Group

    return Group(*inside)


def hdf5_group(path: Path) -> tuple[Path, str] | None:
    """Return file and group of an HDF5 file or of ``file.hdf5#/group``; None for any other path."""
    if path.exists():
        return (path, "/") if is_hdf5(path) else None
    text = str(path)
    for place in [i for i, letter in enumerate(text) if letter == "#"]:
        file = Path(text[:place])
        if file.is_file():
            return file, "/" + text[place + 1 :].strip("/")
    return None


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() in HDF5_SUFFIXES:
        return True
    with path.open("rb") as stream:
        return stream.read(len(_SIGNATURE)) == _SIGNATURE
