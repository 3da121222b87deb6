"""The folder of what dpsim compiles: one process makes a thing, all find it afterwards.

It is ``$XDG_CACHE_HOME/dpsim`` or ``~/.cache/dpsim``; things appear in it by one rename, under names that tell all that
they depend on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import IO

from dpsim.errors import SetupError

_POLL = 0.2
"""Seconds between two looks at whether a lock is free."""

Waiting = Callable[[float], None]
"""Told the seconds of waiting so far, now and then; it may raise to end it."""


def cache_root() -> Path:
    """Folder of all that is kept."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path.home() / ".cache"
    return base / "dpsim"


@contextlib.contextmanager
def locked(path: Path, waiting: Waiting, *, otherwise: str = "") -> Iterator[None]:
    """Hold the lock of one thing; other processes wait here until it is made.

    Parameters
    ----------
    path
        Of the lock.
    otherwise
        What else the user may do where the folder cannot be written, for the message.

    Raises
    ------
    SetupError
        If the folder cannot be written.
    """
    begin = time.monotonic()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise SetupError(
            f"the cache folder {path.parent} cannot be written ({error.strerror}): make it writable, or set "
            f"XDG_CACHE_HOME to a folder that is{otherwise}"
        ) from None
    with handle:
        while not _taken(handle):
            waiting(time.monotonic() - begin)
            time.sleep(_POLL)
        yield


def _taken(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def used(path: Path) -> None:
    """Count a thing as used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def remove_unused(folder: Path, pattern: str, keep: int, needed: Container[str] = ()) -> None:
    """Remove all but the things last used, and those of names that others need, with their locks and logs."""
    with contextlib.suppress(OSError):
        found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
        for path in found[:-keep]:
            if path.name in needed:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            for suffix in (".lock", ".log"):
                path.with_suffix(suffix).unlink(missing_ok=True)
