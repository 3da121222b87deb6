"""The append-only record of a run, and the reading of it from another shell."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class EventLog:
    """Appends one line of JSON for each event.

    Lines of several drivers do not mix: each is one short write to a file opened for appending.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._run = run
        self._last_progress: dict[str, float] = {}

    def write(self, event: str, stage: str | None = None, **values: Any) -> None:
        """Append an event; progress of a stage at most once a second, apart from its end."""
        now = time.time()
        if event == "progress" and stage is not None:
            done = values.get("total") is not None and values.get("done", 0) >= values["total"]
            if not done and now - self._last_progress.get(stage, 0.0) < 1.0:
                return
            self._last_progress[stage] = now
        record = {"time": round(now, 3), "run": self._run, "event": event, "stage": stage, **values}
        os.write(self._descriptor, (json.dumps(record, default=str) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (offset after it, event) of the complete lines from a byte offset on; damaged lines are passed over."""
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield offset, event


def last_start(path: Path, offset: int = 0) -> int | None:
    """Return where the events of the latest run begin, looking from a byte offset on; None if no run began there."""
    found = None
    try:
        file = path.open("rb")
    except OSError:
        return None
    with file:
        file.seek(offset)
        for line in file:
            if b'"event": "run_start"' in line and line.endswith(b"\n"):
                found = offset
            offset += len(line)
    return found
