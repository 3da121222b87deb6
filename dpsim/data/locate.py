"""Where systems lie: in and below folders, in groups of HDF5 files, in LMDB, and what patterns match."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dpsim.data.lmdb import DATA, is_lmdb
from dpsim.data.store import HDF5_SUFFIXES, hdf5_group, is_hdf5
from dpsim.errors import DataError


class Found(NamedTuple):
    """A system, or the systems of an LMDB."""

    path: Path
    """Folder with ``type.raw``, ``file.hdf5#/group``, or folder of an LMDB."""
    name: str
    """For messages and tables."""


def find_all(paths: Sequence[str | Path], patterns: Sequence[str] = ()) -> list[Found]:
    """Return all systems that some paths mean, each once, in the order given.

    Parameters
    ----------
    paths
        Folders, HDF5 files and their groups, LMDB folders, and globs of such (``**`` goes down into folders).
    patterns
        If given, only systems whose path below the searched place ends in what matches one of these globs.

    Raises
    ------
    DataError
        If a path is missing or holds no system, or a pattern matches none.
    """
    found = [one for path in paths for one in _matching(path, patterns)]
    unique: dict[str, Found] = {}
    for one in found:
        unique.setdefault(os.path.realpath(one.path), one)
    return list(unique.values())


def _matching(path: str | Path, patterns: Sequence[str]) -> list[Found]:
    text = os.path.expanduser(str(path))
    base, mark, group = text.partition("#")
    if os.path.exists(text) or not glob.has_magic(base):
        return find_systems(Path(text), patterns)
    matches = sorted(glob.glob(base, recursive=True), key=natural)
    holders = [Path(match) for match in matches if may_hold(Path(match))]
    if not holders:
        what = f"{len(matches)} files, but none is" if matches else "nothing, expected"
        raise DataError(f"{path} matches {what} a folder, HDF5 file or LMDB with systems: check the pattern")
    found: list[Found] = []
    for holder in holders:
        found += _search(Path(f"{holder}#{group}") if mark else holder, patterns)
    if not found:
        among = f" that matches {', '.join(patterns)}" if patterns else ""
        names = ", ".join(map(str, holders[:4])) + (", ..." if len(holders) > 4 else "")
        raise DataError(f"{path} matches {names}, but there is no system{among} (type.raw) in or below it")
    return found


def may_hold(path: Path) -> bool:
    """Whether a path is an HDF5 file, or a folder that systems may be in."""
    return is_hdf5(path) or (path.is_dir() and not path.name.startswith((".", "set.")))


def holds_systems(path: Path) -> bool:
    """Whether there is a system in or below a place."""
    return may_hold(path) and bool(_search(path, ()))


def find_systems(path: Path, patterns: Sequence[str] = ()) -> list[Found]:
    """Return all systems in or below one place, in natural order; hidden folders are passed over.

    HDF5 files in a folder are not searched, as they may hold the same frames again: they are named themselves.

    Raises
    ------
    DataError
        If the place is missing or has no system.
    """
    if not path.exists() and hdf5_group(path) is None:
        raise DataError(f"{path} does not exist, expected a folder with a system (type.raw) in or below it")
    found = _search(path, patterns)
    if not found:
        among = f" that matches {', '.join(patterns)}" if patterns else ""
        files = sorted(one.name for one in path.glob("*") if one.suffix in HDF5_SUFFIXES) if path.is_dir() else []
        hint = f"; HDF5 files are named themselves: {path / files[0]}" if files else ""
        raise DataError(f"{path} holds no system{among}, expected a folder with type.raw in or below it{hint}")
    return found


def _search(path: Path, patterns: Sequence[str]) -> list[Found]:
    inside = hdf5_group(path)
    if inside is not None:
        found = _in_hdf5(*inside, patterns)
    elif is_lmdb(path):
        found = [Found(path, path.resolve().name)]
    elif path.is_dir():
        found = _below(path, patterns)
    else:
        raise DataError(f"{path} is a file, expected a system folder: run `dpsim data convert` on it first")
    return sorted(found, key=lambda one: natural(one.name))


def _below(path: Path, patterns: Sequence[str]) -> list[Found]:
    found = []
    for root, folders, files in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "set."))]
        below = PurePosixPath(Path(root).relative_to(path))
        if ("type.raw" in files or DATA in files) and matches(below, patterns):
            found.append(Found(Path(root), (PurePosixPath(path.resolve().name) / below).as_posix()))
    return found


def _in_hdf5(file: Path, group: str, patterns: Sequence[str]) -> list[Found]:
    from dpsim.data.hdf5 import groups_with

    found = []
    for name in groups_with(file, group, "type.raw"):
        below = PurePosixPath(os.path.relpath(name, group))
        if matches(below, patterns):
            found.append(Found(Path(f"{file}#{name}"), file.name + ("" if name == "/" else f"#{name}")))
    return found


def matches(below: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Whether a path, or its end, matches one of some globs, in which ``**`` stands for any number of folders."""
    return not patterns or any(_fits(below.parts, ("**", *PurePosixPath(one).parts)) for one in patterns)


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def natural(name: str) -> list[tuple[int, int, str]]:
    """Key that sorts ``s9`` before ``s10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
