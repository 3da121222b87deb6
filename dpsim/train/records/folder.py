"""The folder of a training: made, locked, and swept of what a killed process left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from dpsim.errors import StageError
from dpsim.train.session import LOCK, locked


@contextlib.contextmanager
def training_folder(folder: Path) -> Iterator[Callable[[], None]]:
    """Make, lock and sweep the folder; a failure before the yielded function is called leaves no trace of it."""
    was_there, had_lock = folder.is_dir(), (folder / LOCK).exists()
    keep = was_there and had_lock

    def checked() -> None:
        nonlocal keep
        keep = True

    _make_folder(folder)
    with locked(folder):
        try:
            _sweep(folder)
            yield checked
        finally:
            if not keep:
                (folder / LOCK).unlink(missing_ok=True)
            if not keep and not was_there:
                with contextlib.suppress(OSError):  # somebody else put something there
                    folder.rmdir()


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for pattern in (".*.part", ".best.safetensors.*", ".last.safetensors.*"):
        for path in folder.glob(pattern):
            path.unlink()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        raise StageError(f"{folder} cannot be trained into: {error}; choose a folder that can be written") from None
