"""A run as it is seen from outside: what its driver wrote is read and shown as the driver itself would show it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from dpsim.workflow.driver.outcome import Failure, Outcome
from dpsim.workflow.driver.progress import View
from dpsim.workflow.executors.process import tail
from dpsim.workflow.planning.outline import Outline
from dpsim.workflow.records import locks
from dpsim.workflow.records.events import last_start, read_events
from dpsim.workflow.records.files import read_json
from dpsim.workflow.records.store import Store

_UNFINISHED: Final = ("running", "queued")


class Follower:
    """Tells a view what becomes of the latest run in a run directory.

    Parameters
    ----------
    store
        The run directory; it is only read.
    view
        What is told.
    offset
        Byte of ``events.jsonl`` before which nothing is looked at; what began earlier is another run.
    past_progress
        Whether progress from before now is told as well, which a view that is redrawn needs and a list does not.
    """

    def __init__(self, store: Store, view: View, *, offset: int = 0, past_progress: bool = True) -> None:
        self.store, self.view = store, view
        self.exit: int | None = None
        """Exit status of the run, once it has ended."""
        self.started = False
        self._run = ""
        self._offset = last_start(store.events, offset) or offset
        self._states: dict[str, str] = {}
        self._at = 0.0
        self._ignore_before = 0.0 if past_progress else time.time()

    def poll(self) -> None:
        """Tell what is new."""
        for end, event in read_events(self.store.events, self._offset):
            self._offset = end
            self._at = float(event.get("time", 0.0))
            if event.get("event") == "run_start":
                self._begin(event)
            elif self.started and event.get("run") == self._run:
                self._tell(str(event.get("stage") or ""), event)

    def is_over(self) -> bool:
        """Return whether the run has ended, or its driver has."""
        if self.exit is not None:
            return True
        owner = locks.read_owner(self.store.driver)
        return owner is None or owner.alive() is False

    def finish(self) -> None:
        """End the display; what was running when the driver was killed is shown as interrupted."""
        self.poll()
        if self.exit is None and self.is_over():
            for name, state in self._states.items():
                if state in _UNFINISHED:
                    self.view.state(name, "interrupted", "the driver has ended", self._at)
        self.view.finish(self._at if self.is_over() and self.started else None)

    def _begin(self, event: Mapping[str, Any]) -> None:
        self._run, self.exit, self.started = str(event.get("run")), None, True
        outline = Outline.from_event({"name": self.store.run_dir.name, **event})
        self._states = dict.fromkeys(outline.tasks, "waiting")
        self.view.start(outline, self._at)

    def _tell(self, name: str, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "run_end":
            self.exit = int(event.get("exit", 1))
        elif kind == "grown":
            outline = Outline.from_event(event)
            self._states = {task: self._states.get(task, "waiting") for task in outline.tasks}
            self.view.grown(outline)
        elif kind == "state" and name in self._states:
            self._states[name] = str(event.get("state"))
            self.view.state(name, self._states[name], str(event.get("reason") or ""), self._at)
        elif kind == "progress" and name in self._states and self._at >= self._ignore_before:
            self.view.progress(name, event, self._at)
        elif kind in ("note", "busy"):
            self.view.message(f"{name}: {event.get('message', '')}")


def outcome_of(store: Store, code: int) -> Outcome:
    """Return how the latest run ended, as its driver would say it.

    Parameters
    ----------
    code
        Exit status of the driver.
    """
    stages = read_json(store.manifest).get("stages", {})
    failures = []
    for name, record in stages.items():
        if record.get("state") == "failed":
            attempts = record.get("attempts") or [{}]
            log = store.run_dir / "stages" / name / "log.txt"
            status = int(attempts[-1].get("exit") or 5)
            failures.append(Failure(name, str(record.get("reason", "")), status, log, tuple(tail(log, 20))))
    times = [float(event["time"]) for _, event in read_events(store.events, last_start(store.events) or 0)]
    seconds = times[-1] - times[0] if times else 0.0
    return Outcome(code, {name: str(record.get("state")) for name, record in stages.items()}, seconds, failures)
