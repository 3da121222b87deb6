"""The job of a stage on a cluster: ``python -m dpsim.workflow.job ENTRY TICKET``.

It runs the worker of the stage, tells it in time that the wall-clock time is nearly over, and leaves behind what the
driver needs to know: when and where it started, events, and the exit status. A job whose ticket is no longer that of
the stage ends without doing anything (see `records.tickets`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

from dpsim.errors import Interrupted
from dpsim.workflow.records.files import read_json, write_atomic
from dpsim.workflow.records.locks import JOB
from dpsim.workflow.records.store import Entry
from dpsim.workflow.records.tickets import FILE, Ticket, folder, forget_locks, read_ticket
from dpsim.workflow.worker import EXIT_BUSY

STOP: Final = "stop"
"""File in the folder of the ticket that tells a job to save and stop."""
_JOB_IDS: Final = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
_LOOK_S: Final = 10.0
"""Time between two looks at the ticket."""
_BUSY_S: Final = 60.0
"""How long a job waits for one that is being ended by the cluster."""


def notice(walltime: float) -> float:
    """Return how long before the end of its time a stage is told to save, s."""
    return min(120.0, walltime / 3)


class Supervisor:
    """Runs the worker and passes on that it is to stop."""

    def __init__(self, entry: Entry, ticket: Ticket) -> None:
        self.entry, self.ticket = entry, ticket
        self.folder = folder(entry, ticket.ticket)
        self.worker: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self._end = time.time() + ticket.walltime - notice(ticket.walltime) if ticket.walltime else None

    def run(self) -> int:
        """Run the stage; return its exit status."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "pid", f"{os.getpid()}\n")
        again = (self.folder / "started.json").exists()
        self._write("started.json", pid=os.getpid(), start=time.time())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        forget_locks(self.entry, (*self.ticket.earlier, self.ticket.ticket))
        started = time.monotonic()
        while True:
            code = self._attempt(fresh=self.ticket.fresh and not again)
            if code != EXIT_BUSY or self.stopping or time.monotonic() - started > _BUSY_S:
                break
            time.sleep(1.0)
        if self._is_mine():
            self._write("exit.json", code=code, end=time.time())
        return code if code >= 0 else 128 - code

    def _attempt(self, *, fresh: bool) -> int:
        command = [sys.executable, "-P", "-m", "dpsim.workflow.worker", str(self.entry.path)]
        command += ["--events-file", str(self.folder / "events.jsonl"), "--follow-driver", *(["--fresh"] * fresh)]
        stage = self.entry.read("stage.json")
        granted = stage["resources"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", JOB: self.ticket.ticket}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, granted["cpus"] // granted["ranks"])))
        environment |= stage["options"].get("env", {})
        with self.entry.log.open("ab") as log:
            self.worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, cwd=self.entry.path,
                env=environment,
            )  # fmt: skip
        looked = time.monotonic()
        if self.stopping:
            self.worker.terminate()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.worker.wait(timeout=0.5)
                # told to stop before it could listen: it has done nothing, and goes on as if it had saved
                return Interrupted.exit_code if self.stopping and code == -signal.SIGTERM else code
            if self._end is not None and time.time() > self._end:
                self._end = None
                self._stop(signal.SIGTERM, None)
            if (self.folder / STOP).exists():
                self._stop(signal.SIGTERM, None)
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                if not self._is_mine():
                    self._stop(signal.SIGTERM, None)

    def _is_mine(self) -> bool:
        return read_json(self.entry.path / FILE).get("ticket") == self.ticket.ticket

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self.stopping:
            self.stopping = True
            if self.worker is not None and self.worker.poll() is None:
                self.worker.terminate()

    def _write(self, name: str, **values: Any) -> None:
        job_id = next((os.environ[word] for word in _JOB_IDS if word in os.environ), self.ticket.job_id)
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        record = {"ticket": self.ticket.ticket, "job_id": job_id, "host": host, **values}
        write_atomic(self.folder / name, json.dumps(record, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the job; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dpsim.workflow.job")
    parser.add_argument("entry", type=Path, help="folder of the stage in the store")
    parser.add_argument("ticket", help="the ticket under which the job was submitted")
    options = parser.parse_args(arguments)
    entry = Entry(options.entry.resolve())
    ticket = read_ticket(entry)
    if ticket is None or ticket.ticket != options.ticket or ticket.state == "over":
        print(f"the ticket {options.ticket} is not that of {entry.path}: another job has its place", file=sys.stderr)
        return 0
    return Supervisor(entry, ticket).run()


if __name__ == "__main__":
    sys.exit(main())
