"""Where the jobs of a cluster find the files of a stage: in the run directory, or in a copy of what they need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpsim.workflow.executors.base import StageJob
from dpsim.workflow.planning.machines import dispatcher
from dpsim.workflow.records.files import read_json
from dpsim.workflow.records.store import Entry
from dpsim.workflow.records.tickets import Ticket, folder


class SharedPlace:
    """The cluster sees the run directory.

    Parameters
    ----------
    machine
        dpdispatcher's description.
    run_dir
        The run directory.
    """

    def __init__(self, machine: Mapping[str, Any], run_dir: Path) -> None:
        self._machine, self._run_dir = dict(machine), run_dir

    def path(self, entry: Entry) -> str:
        """Return where the cluster finds the folder of a stage."""
        return str(entry.path)

    @contextlib.contextmanager
    def at(self, entry: Entry, ticket: Ticket) -> Iterator[Any]:
        """Give dpdispatcher's machine, working in the folder of a ticket."""
        root = folder(entry, ticket.ticket)
        root.mkdir(parents=True, exist_ok=True)
        machine = dispatcher().Machine.load_from_dict({**self._machine, "local_root": str(root)})
        machine.context.local_root = machine.context.remote_root = str(root)
        yield machine

    def send(self, job: StageJob, ticket: Ticket) -> None:
        """Send what a stage needs: nothing is to be done."""

    def refresh(self, entry: Entry, ticket: Ticket) -> None:
        """Fetch what a job has written so far: nothing is to be done."""

    def fetch(self, entry: Entry, ticket: Ticket) -> None:
        """Fetch the outputs: nothing is to be done."""

    def clean(self, entry: Entry, ticket: Ticket) -> None:
        """Take away what nobody needs any more: the folder of a ticket is small, and tells what happened."""

    def job_id(self, entry: Entry, ticket: Ticket) -> str:
        """Return the number of a job that its driver did not write down, an empty string if there is no trace of it."""
        root = folder(entry, ticket.ticket)
        for path in root.glob("*_job_id"):  # written by dpdispatcher
            if text := path.read_text().strip():
                return text
        return str(read_json(root / "started.json").get("job_id", ""))
