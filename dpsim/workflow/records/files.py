"""Small files, written so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any, Final


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty if the file is absent or no object."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
    return {}


_REASONS: Final = {
    errno.ENOSPC: "no space is left on the disk; free some",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file is larger than the limit of this shell or file system (ulimit -f); raise it",
    errno.EROFS: "the file system is read-only; choose another folder with --run-dir",
    errno.EIO: "the disk reports an error; look at the system's log",
}
_FULL: Final = os.strerror(errno.ENOSPC)


def disk_problem(error: BaseException) -> str:
    """Return what a disk that cannot be written means to a user, empty if an error is of another kind.

    Libraries that write for themselves (HDF5, safetensors) tell it by the text only.
    """
    number = error.errno if isinstance(error, OSError) else None
    reason = _REASONS.get(number or (errno.ENOSPC if _FULL in str(error) else 0), "")
    if not reason:
        return ""
    name = error.filename if isinstance(error, OSError) else None
    return f"cannot write{f' {name}' if name else ''}: {reason}, then run again"


def write_atomic(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file under a temporary name in its folder and rename it.

    A `durable` one is flushed to disk before, so that it is whole after a power failure too; that takes milliseconds.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def full_path(base: Path, path: str) -> Path:
    """Return where a path leads that a workflow names: ``~`` is the home folder, a relative one begins at `base`."""
    return base / os.path.expanduser(path)


def link_folder(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to a folder, replacing an older link at once."""
    text = os.path.relpath(target, link.parent)
    if link.is_symlink() and os.readlink(link) == text:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(text, target_is_directory=True)
    temporary.replace(link)
