"""A stage that works as a job of a cluster, as its driver sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from dpsim.workflow.executors.base import Ending, StageJob
from dpsim.workflow.executors.process import tail
from dpsim.workflow.executors.schedulers import Answer
from dpsim.workflow.records.events import read_events
from dpsim.workflow.records.files import read_json
from dpsim.workflow.records.tickets import Ticket, folder


class ClusterHandle:
    """What is known of a job; files in the folder of its ticket say most of it."""

    descriptor: int | None = None
    silent = False

    def __init__(self, job: StageJob) -> None:
        self.job, self.entry, self.granted = job, job.entry, job.granted
        self.started = time.time()
        self.timeout, self.timed_out = job.timeout, False
        self.error: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}
        self.state: Literal["queued", "running"] = "queued"
        self.where = "being submitted"
        self.job_id = ""
        self.ending: Ending = ""
        self.counts: Mapping[str, int] = job.counts
        self.ticket: Ticket | None = None
        self.future: Future[Ticket | None] | None = None
        """What the thread does with it now."""
        self.not_before = 0.0
        self.code: int | None = None
        self.exit: dict[str, Any] | None = None
        """What the job wrote at its end."""
        self.answer: Answer | None = None
        self.gone = 0
        """How often in turn the scheduler said that the job is over."""
        self.running_since: float | None = None
        self.stop_at = 0.0
        """When it is ended, of the monotonic clock; 0 if it is not to stop."""
        self.to_stop = self.ended = self.fetched = self.cut_off = False
        self._notes: list[dict[str, Any]] = []
        self._offset = 0
        self._looked = 0.0
        self._log_offset = self.entry.log.stat().st_size if self.entry.log.exists() else 0

    @property
    def name(self) -> str:
        """The job in words."""
        return f"job {self.job_id}" if self.job_id else "the job"

    @property
    def folder(self) -> Path:
        """Where the job leaves what it has to say."""
        assert self.ticket is not None
        return folder(self.entry, self.ticket.ticket)

    def take(self, ticket: Ticket) -> None:
        """Note the ticket and the number of the job."""
        if self.ticket is None or self.ticket.ticket != ticket.ticket:
            self.where = f"job {ticket.job_id}"
        self.ticket, self.job_id, self.counts = ticket, ticket.job_id, ticket.counts

    def fail(self, message: str, code: int) -> None:
        """Note that nothing came of it."""
        self.error, self.code = {"message": message}, code

    def hear(self, answer: Answer) -> None:
        """Note what the scheduler says."""
        self.answer = answer
        self.gone = 0 if answer.alive else self.gone + 1
        if not answer.alive:
            return
        detail = f" ({answer.detail})" if answer.detail else ""
        if answer.state == "queued" and self.running_since is None:
            self.state, self.where = "queued", f"{self.name}{detail}"
        elif answer.state == "running":
            node = answer.detail or self._host()
            self.state, self.where = "running", f"{self.name} on {node}" if node else f"{self.name} running"

    def look(self, poll: float) -> None:
        """Look at what the job has left, some times between two questions to the scheduler."""
        now = time.monotonic()
        if now - self._looked < min(1.0, poll / 2):
            return
        self._looked = now
        if self.running_since is None:
            record = read_json(self.folder / "started.json")
            if record:
                self.running_since = self.started = float(record.get("start", time.time()))
                self.state = "running"
                self.where = f"{self.name} on {record.get('host', '?')}"
        if self.exit is None:
            self.exit = read_json(self.folder / "exit.json") or None

    def ran(self) -> bool:
        """Whether the stage began."""
        return self.running_since is not None or (self.folder / "started.json").exists()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events that have arrived."""
        while self._notes:
            yield self._notes.pop(0)
        if self.ticket is None:
            return
        for event in self._read_events():
            if event.get("event") == "error":
                self.error = event
            elif event.get("event") == "usage":
                self.usage = {name: value for name, value in event.items() if name != "event"}
            yield event

    def skip_events(self) -> None:
        """Take in what an earlier driver has passed on, and pass on the newest progress alone."""
        progress = [event for event in self.events() if event.get("event") == "progress"]
        self._notes += progress[-1:]

    def note(self, message: str) -> None:
        """Say something about it to whoever watches."""
        self._notes.append({"event": "note", "message": message})

    def last_lines(self, count: int = 20) -> list[str]:
        """Return the end of what this attempt printed."""
        return tail(self.entry.log, count, self._log_offset)

    def say_script_output(self) -> None:
        """Add what the job's script printed to the log of the stage, for nobody else will."""
        parts = []
        for path in sorted(self.folder.glob("*.out")) + sorted(self.folder.glob("*.err")):
            lines = tail(path, 50)
            parts += [f"--- {self.name}, {path.name}", *lines] if lines else []
        if parts:
            with self.entry.log.open("a", encoding="utf-8") as log:
                log.write("\n".join(parts) + "\n")

    def _host(self) -> str:
        return str(read_json(self.folder / "started.json").get("host", ""))

    def _read_events(self) -> Iterator[dict[str, Any]]:
        for end, event in read_events(self.folder / "events.jsonl", self._offset):
            self._offset = end
            yield dict(event)
