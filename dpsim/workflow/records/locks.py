"""One process at a time for each key of the store: a file that says who, where and since when.

A lock whose process on this machine is dead is taken over, with what that process left running ended; a
lock of another machine is reported, since nobody here can tell whether its owner lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dpsim.errors import DpsimError, StageError
from dpsim.workflow.records.files import write_atomic

MARK: Final = "DPSIM_STAGE_OWNER"
"""Environment variable of the children of a lock's owner."""
JOB: Final = "DPSIM_JOB_TICKET"
"""Environment variable of a worker that a cluster runs: the ticket of its job."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    host: str
    pid: int
    start: float
    """Seconds since 1970 at which the process was started, which tells it from a later one with its number."""
    since: str
    """Time at which the lock was taken, for people."""
    job: str = ""
    """Ticket of the job that the owner belongs to; the driver knows when that is over, wherever it ran."""

    def alive(self) -> bool | None:
        """Return whether the owner lives; None if it is on another machine."""
        if self.host != socket.gethostname():
            return None
        start = process_start(self.pid)
        return start is not None and abs(start - self.start) < 2.0

    def mark(self) -> str:
        """Return the mark that the owner's children carry in their environment."""
        return f"{self.pid}:{self.start:.2f}"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Busy(DpsimError):
    """The lock is held by a living process."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(f"held by {owner}")
        self.owner = owner


def this_process() -> Owner:
    """Return this process as the owner of a lock."""
    start = process_start(os.getpid()) or 0.0
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return Owner(socket.gethostname(), os.getpid(), start, since, os.environ.get(JOB, ""))


def process_start(pid: int) -> float | None:
    """Return when a process was started (s since 1970), None if there is none of that number."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def read_owner(path: Path) -> Owner | None:
    """Return who holds a lock, None if nobody does."""
    try:
        content = json.loads(path.read_text())
        host, pid, start = str(content["host"]), int(content["pid"]), float(content["start"])
        return Owner(host, pid, start, str(content["since"]), str(content.get("job", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def acquire(path: Path) -> str:
    """Take a lock.

    Returns
    -------
    str
        What to log if the lock of a dead process was taken over, else an empty string.

    Raises
    ------
    Busy
        If a living process of this machine holds it.
    StageError
        If a process of another machine holds it.
    """
    with _guard(path.parent):
        owner = read_owner(path)
        taken = ""
        if owner is not None:
            alive = owner.alive()
            if alive is None:
                raise StageError(
                    f"{path} is held by {owner}; if that process has ended, delete this file and run again"
                )
            if alive and owner.pid != os.getpid():
                raise Busy(owner)
            if not alive:
                ended = end_leftovers(owner)
                taken = f"took over the lock of {owner}, which is dead"
                taken += f" (ended {ended} processes it left running)" if ended else ""
        mine = this_process()
        write_atomic(path, json.dumps(asdict(mine)), durable=False)
        os.environ[MARK] = mine.mark()
        return taken


def release(path: Path) -> None:
    """Give a lock back, if it is still this process's."""
    owner = read_owner(path)
    if owner is not None and owner.pid == os.getpid() and owner.host == socket.gethostname():
        path.unlink(missing_ok=True)


def end_leftovers(owner: Owner) -> int:
    """End what a dead owner left running, so that nothing else writes into its work folder.

    These are the processes of its process group, and those that carry its mark in their environment
    (an MPI launcher puts its children into groups of their own).

    Returns
    -------
    int
        How many were ended.
    """
    import psutil

    # If another process has the owner's number by now, so has its group.
    gone = process_start(owner.pid) is None
    ended = 0
    for process in psutil.process_iter():
        if process.pid in (os.getpid(), owner.pid):
            continue
        try:
            in_group = os.getpgid(process.pid) == owner.pid and process.create_time() >= owner.start - 2.0
            if (gone and in_group) or process.environ().get(MARK) == owner.mark():
                process.kill()
                ended += 1
        except (psutil.Error, OSError):
            continue
    return ended


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Make reading and writing a lock one step; held for microseconds only."""
    descriptor = os.open(folder / ".guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems have no flock; the lock file alone must do there.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield
    finally:
        os.close(descriptor)
