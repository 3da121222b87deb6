"""Folders and files that appear whole or not at all, digests, and files that grow while they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpsim.errors import DataError

CARD = "dataset.json"
"""File of a data set that names its format and remembers where the frames came from."""
_ON_CARDS = {"format", "version", "type_map"}


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder to write into, and rename it to `path` when the block ends well.

    Parameters
    ----------
    path
        The folder to make.
    overwrite
        Whether a data set of dpsim that is there is replaced; its old contents stay until the new ones are complete.

    Raises
    ------
    DataError
        If `path` exists and may not be replaced, see `check_output`.
    """
    check_output(path, overwrite=overwrite)
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    temporary.mkdir()
    try:
        yield temporary
        _sync_tree(temporary)
        _exchange(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Check that a folder may be made, before the work for it begins.

    Parameters
    ----------
    path
        The folder to make: missing, empty, or with `overwrite` a data set that dpsim wrote.
    overwrite
        Whether such a data set is replaced.

    Raises
    ------
    DataError
        If there is something else at `path`.
    """
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise DataError(f"{path} exists already: remove it or choose another output folder")
    if not _is_data_set(path):
        raise DataError(
            f"{path} is no data set written by dpsim (it has no {CARD} of one), and nothing else is overwritten: "
            "remove it or choose another output folder"
        )


def check_apart(output: Path, sources: Iterable[str | Path]) -> None:
    """Check that an output, which may replace what is there, does not replace what it is made from.

    Raises
    ------
    DataError
        If a source is the output or lies in it.
    """
    folders = [(resolved, resolved(output)) for resolved in (os.path.abspath, os.path.realpath)]
    for source in sources:
        if any(Path(resolved(source)).is_relative_to(folder) for resolved, folder in folders):
            raise DataError(f"the output {output} would replace {source}, which is read: choose another output folder")


def _is_data_set(path: Path) -> bool:
    """Whether a folder has the card of a data set, or nothing but folders with cards: systems without a whole."""
    return path.is_dir() and (_has_card(path) or all(_has_card(entry) for entry in path.iterdir()))


def _has_card(folder: Path) -> bool:
    try:
        return read_json(folder / CARD).keys() >= _ON_CARDS
    except DataError:
        return False


def _exchange(new: Path, path: Path) -> None:
    old = None
    if path.exists():
        old = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.old"
        os.rename(path, old)
    os.rename(new, path)
    _sync(path.parent)
    if old is not None:
        shutil.rmtree(old) if old.is_dir() else old.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a hidden name beside `path` to write to, and rename it to `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document under a temporary name and rename it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    DataError
        If the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def added_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """Return the whole lines of a file behind a byte offset, and where they end.

    A half-written line waits for its end; a file that does not exist has no lines yet.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            added = file.read()
    except FileNotFoundError:
        return [], offset
    whole = added[: added.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").split("\n")[:-1], offset + len(whole)
