"""Starts the process of a stage on this machine, listens to it and stops it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from dpsim.workflow.context import Granted
from dpsim.workflow.executors.nursery import Nursery, Process
from dpsim.workflow.records import locks
from dpsim.workflow.records.store import Entry

if TYPE_CHECKING:
    from dpsim.workflow.executors.base import Ending

GRACE_S: Final = 30.0
"""Time between asking a stage to stop and ending it."""


class Job:
    """A running stage.

    Parameters
    ----------
    task
        Name of the task.
    entry
        Where it works; ``stage.json`` and ``inputs.json`` are there.
    granted
        Cores and GPUs.
    gpus
        Numbers of the GPUs it may see.
    environment
        Variables added to those of this process.
    timeout
        Longest time in s.
    fresh
        Throw away what an earlier attempt left.
    nursery
        Forks the process; without it, or with an `environment` that a fork would see too late, a new interpreter is
        started.
    """

    def __init__(
        self,
        task: str,
        entry: Entry,
        *,
        granted: Granted,
        gpus: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
        fresh: bool = False,
        nursery: Nursery | None = None,
    ) -> None:
        self.task, self.entry, self.granted, self.gpus = task, entry, granted, gpus
        self.timeout = timeout
        self.state: Literal["queued", "running"] = "running"
        self.where = self.job_id = ""
        self.ending: Ending = ""
        """What ended it beside its exit status."""
        self.counts: Mapping[str, int] = {}
        self.started = time.time()
        self.error: dict[str, Any] = {}
        """The last ``error`` event."""
        self.usage: dict[str, Any] = {}
        self.timed_out = False
        self.silent = False
        """Whether nobody is left who could write an event."""
        self._stop_at: float | None = None
        self._buffer = b""
        self.log_offset = entry.log.stat().st_size if entry.log.exists() else 0
        read, write = os.pipe()
        os.set_blocking(read, False)
        self.descriptor: int | None = read
        arguments = [str(entry.path), "--follow-driver", *(["--fresh"] if fresh else [])]
        variables = _environment(granted, gpus, environment or {})
        given, self._stdin = os.pipe()
        try:
            with entry.log.open("ab") as log:
                self.process: Process = (
                    _interpreter(arguments, variables, entry.path, (given, log.fileno(), write))
                    if nursery is None or environment
                    else nursery.fork(
                        arguments,
                        environment=variables,
                        cwd=entry.path,
                        descriptors=(given, log.fileno(), write),
                    )
                )
        except BaseException:
            os.close(read)
            os.close(self._stdin)
            raise
        finally:
            os.close(given)
            os.close(write)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events that have arrived."""
        assert self.descriptor is not None
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self.descriptor, 65536):
                self._buffer += block
            self.silent = True
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == "error":
                    self.error = event
                elif event.get("event") == "usage":
                    self.usage = {name: value for name, value in event.items() if name != "event"}
                yield event

    def poll(self) -> int | None:
        """Return the exit status if the stage has ended; end it if its time is up."""
        now = time.time()
        if self.timeout is not None and now - self.started > self.timeout and not self.timed_out:
            self.timed_out = True
            self.stop()
        if self._stop_at is not None and now > self._stop_at:
            self.kill()
        return self.process.poll()

    def stop(self) -> None:
        """Ask the stage to stop; it is ended after `GRACE_S`."""
        if self._stop_at is None:
            self._stop_at = time.time() + GRACE_S
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the stage and its group now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Free what belonged to the process; end what it left running, if it did not end by itself."""
        assert self.descriptor is not None
        os.close(self.descriptor)
        os.close(self._stdin)
        owner = locks.read_owner(self.entry.lock)
        if owner is not None and owner.pid == self.process.pid:
            locks.end_leftovers(owner)

    def last_lines(self, count: int = 20) -> list[str]:
        """Return the end of what this attempt printed."""
        return tail(self.entry.log, count, self.log_offset)


def _interpreter(
    arguments: list[str], environment: Mapping[str, str], cwd: Path, descriptors: tuple[int, int, int]
) -> Process:
    """Start the worker in a new interpreter (see `Nursery.fork`)."""
    given, log, events = descriptors
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dpsim.workflow.worker", *arguments, "--events-fd", str(events)],
        stdin=given,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(events,),
        cwd=cwd,
        env=dict(environment),
        start_new_session=True,
    )


def _environment(granted: Granted, gpus: tuple[str, ...], extra: Mapping[str, str]) -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop(locks.MARK, None)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, granted.cpus // granted.ranks)))
    environment["PYTHONUNBUFFERED"] = "1"
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return {**environment, **extra}


def tail(path: Path, count: int, offset: int = 0) -> list[str]:
    """Return the last lines of a text file, looking at its last 64 kB."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - 65536))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines[-count:]
