"""What the runner hands over and gets back, wherever a stage runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dpsim.workflow.context import Granted
from dpsim.workflow.records.store import Entry
from dpsim.workflow.stage import Resources

Ending = Literal["", "oom", "preempted", "walltime", "error", "cancelled"]
"""What ended a stage that is not done: one of the words of `profiles.Retries`, a cancellation by somebody else, or
nothing but its exit status."""


@dataclass(frozen=True)
class StageJob:
    """One attempt at a stage, ready to be started."""

    task: str
    """Name of the task."""
    entry: Entry
    """Where it works; ``stage.json`` and ``inputs.json`` are there."""
    granted: Granted
    resources: Resources = field(default_factory=Resources)
    """As declared."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables added to those of the process."""
    timeout: float | None = None
    """Longest time of the attempt, s."""
    fresh: bool = False
    """Throw away what an earlier attempt left."""
    run: str = ""
    """Name of the run."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often it was started again, by what had ended it."""


class Handle(Protocol):
    """A stage that was handed over to an executor."""

    entry: Entry
    granted: Granted
    descriptor: int | None
    """What becomes readable when there are events; None if only `Executor.poll` tells."""
    silent: bool
    """Whether nobody is left who could write an event."""
    started: float
    """Seconds since 1970."""
    timeout: float | None
    timed_out: bool
    error: dict[str, Any]
    """The last ``error`` event."""
    usage: dict[str, Any]
    """Time and memory, known at the end."""
    state: Literal["queued", "running"]
    where: str
    """Job and node in words; empty for a process of this machine."""
    job_id: str
    ending: Ending
    counts: Mapping[str, int]
    """How often it was started again, by what had ended it."""

    def last_lines(self, count: int = 20) -> list[str]:
        """Return the end of what this attempt printed."""


class Executor(Protocol):
    """Starts stages somewhere, and tells what becomes of them."""

    survives: bool
    """Whether what runs there goes on when the driver is gone, and is found again by `reattach`."""

    def room_for(self, granted: Granted) -> bool:
        """Whether another stage may be handed over now."""

    def submit(self, job: StageJob) -> Handle:
        """Start a stage, or begin to."""

    def reattach(self, job: StageJob) -> Handle | None:
        """Return the job that an earlier driver started for the same stage, None if there is none."""

    def events(self, handle: Any) -> Iterator[dict[str, Any]]:
        """Yield the events that have arrived."""

    def poll(self, handle: Any) -> int | None:
        """Return the exit status if the stage has ended."""

    def cancel(self, handle: Any, *, now: bool = False) -> None:
        """Ask a stage to save and stop; with `now`, end it."""

    def release(self, handle: Any) -> None:
        """Free what belonged to a stage that has ended."""

    def close(self) -> None:
        """End the work; jobs that survive are left alone."""
