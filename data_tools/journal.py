"""What was labelled already, in a file to which lines are only appended.

A process that is killed leaves at most one torn line at the end; everything before it is used again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any

from dpsim.errors import DataError


def task_key(task: dict[str, Any]) -> str:
    """Return a digest of everything that decides the labels of a task."""
    text = json.dumps({name: task[name] for name in ("atoms", "calculator", "properties", "md")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """Frames of each task by number, and the newest state of each trajectory.

    Parameters
    ----------
    path
        The file; made if it is not there. It is locked while in use.

    Raises
    ------
    DataError
        If another process is using it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.frames: dict[str, dict[int, dict[str, Any]]] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self.finished: set[str] = set()
        self._file: IO[bytes] = path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise DataError(f"{path} is in use by another process: wait for it, or choose another folder") from None
        self._read()

    def _read(self) -> None:
        self._file.seek(0)
        good = 0
        for line in self._file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None:
                break
            self._take(entry)
            good += len(line)
        if good != os.fstat(self._file.fileno()).st_size:
            self._file.truncate(good)

    def _take(self, entry: dict[str, Any]) -> None:
        key = entry["key"]
        if entry.get("frame") is not None:
            self.frames.setdefault(key, {})[entry["number"]] = entry["frame"]
        if entry.get("state") is not None:
            self.states[key] = entry["state"]
        if entry.get("done"):
            self.finished.add(key)

    def add(self, key: str, answer: dict[str, Any]) -> None:
        """Append one answer of a worker and make it durable."""
        entry: dict[str, Any] = {"key": key}
        entry.update((name, answer[name]) for name in ("number", "frame", "state", "done") if name in answer)
        self._take(entry)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close and unlock the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
