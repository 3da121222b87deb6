"""How a run and its stages ended, as the process that drove it says, or one that only watched."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dpsim.errors import Interrupted

if TYPE_CHECKING:
    from dpsim.workflow.executors.base import Handle


@dataclass(frozen=True)
class Failure:
    """A task that failed."""

    task: str
    message: str
    code: int
    log: Path
    lines: tuple[str, ...] = ()


@dataclass
class Outcome:
    """How a run ended."""

    code: int
    states: dict[str, str]
    seconds: float
    failures: list[Failure] = field(default_factory=list)
    signal: int | None = None

    def count(self, *states: str) -> int:
        """Return how many tasks are in one of the states."""
        return sum(state in states for state in self.states.values())


def how_it_ended(job: Handle, code: int) -> str:
    """Return what is said of a stage that did not end well."""
    if job.timed_out:
        return f"ran longer than its timeout of {job.timeout:g} s"
    if job.error:
        return str(job.error.get("message", ""))
    if code == Interrupted.exit_code:
        return "was stopped by a signal from outside; run again to go on"
    if code == -signal.SIGKILL:
        return "was ended by signal 9 (Killed), as happens when the machine runs out of memory"
    return f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with status {code}"
