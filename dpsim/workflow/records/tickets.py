"""``job.json``: which job of a cluster works on a stage, kept where the next driver finds it.

A driver writes a new ticket before it submits and adds the number of the job afterwards. Whoever holds another ticket
than that in the file does nothing: neither a job whose driver died while submitting, nor one that the cluster starts
again after it was given up, ever works beside another.

    store/4f/4f9c.../job.json
    store/4f/4f9c.../job/TICKET/{started.json, exit.json, events.jsonl, pid, job.out, ...}
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from dpsim.workflow.records import locks
from dpsim.workflow.records.store import Entry

FILE: Final = "job.json"
State = Literal["submitting", "queued", "running", "over"]


@dataclass(frozen=True)
class Ticket:
    """The right to work on a stage, and the job that has it."""

    ticket: str
    executor: str
    machine: str
    """Of the cluster: what is compared before another driver asks for the job."""
    profile: str | None
    name: str
    """Of the job."""
    walltime: float | None = None
    """Time after which the stage must have saved, s."""
    fresh: bool = False
    state: State = "submitting"
    job_id: str = ""
    host: str = field(default_factory=socket.gethostname)
    """Of the driver."""
    submitted: float = field(default_factory=time.time)
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often the stage was started again, by what had ended it."""
    earlier: tuple[str, ...] = ()
    """Tickets of the stage before this one; their jobs are over."""


def new_ticket() -> str:
    """Return a name that no other job has."""
    return secrets.token_hex(8)


def read_ticket(entry: Entry) -> Ticket | None:
    """Return the ticket of a stage, None if it has none."""
    names = {item.name for item in dataclasses.fields(Ticket)}
    found: dict[str, Any] = {name: value for name, value in entry.read(FILE).items() if name in names}
    try:
        return Ticket(**{**found, "earlier": tuple(found.get("earlier", ()))})
    except TypeError:
        return None


def write_ticket(entry: Entry, ticket: Ticket, **changes: Any) -> Ticket:
    """Write a ticket with some changes, and return it."""
    changed = dataclasses.replace(ticket, **changes)
    entry.write(FILE, dataclasses.asdict(changed))
    return changed


def taken(entry: Entry, ticket: Ticket) -> str:
    """Say that a stage is with a job that this run cannot ask for."""
    job = f"job {ticket.job_id}" if ticket.job_id else "a job"
    profile = f" (profile {ticket.profile!r})" if ticket.profile else ""
    return (
        f"{ticket.name} is with {job} of {ticket.machine}{profile}: run with that profile, which finds it again, or "
        f"delete {entry.path / FILE} if that job is over"
    )


def folder(entry: Entry, ticket: str) -> Path:
    """Return where the job of a ticket leaves what it has to say."""
    return entry.path / "job" / ticket


def forget_locks(entry: Entry, tickets: tuple[str, ...]) -> None:
    """Take away locks that were left on another machine by jobs that are over."""
    work = entry.path.parents[1] / str(entry.read("stage.json").get("work", ""))
    for path in (entry.lock, work.parent / "lock"):
        owner = locks.read_owner(path)
        if owner is not None and owner.job in tickets and owner.alive() is not True:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(entry: Entry) -> Iterator[None]:
    """Let one driver at a time decide about the job of a stage."""
    (entry.path / "job").mkdir(parents=True, exist_ok=True)
    descriptor = os.open(entry.path / "job" / ".guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):  # not every network file system has flock; tickets alone must do there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
