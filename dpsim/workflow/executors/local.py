"""Stages as processes of this machine, as many at once as there are cores, memory and GPUs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, Final

from dpsim.errors import SetupError
from dpsim.workflow.context import Granted
from dpsim.workflow.executors.base import StageJob
from dpsim.workflow.executors.nursery import Nursery
from dpsim.workflow.executors.process import Job
from dpsim.workflow.planning.resources import Machine
from dpsim.workflow.records.tickets import read_ticket, taken

OUT_OF_MEMORY: Final = 7
"""Exit status of a stage that ran out of memory."""
_MEMORY_INTERVAL_S: Final = 0.5


class LocalExecutor:
    """Processes of this machine; they end with the driver.

    Parameters
    ----------
    machine
        Cores, GPUs and memory that the stages share.
    """

    survives = False

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.nursery = Nursery()
        self._running: list[Job] = []
        self._free_gpus = gpu_numbers(machine.gpus)
        self._looked: dict[int, float] = {}

    def room_for(self, granted: Granted) -> bool:
        """Whether what a stage is granted is free."""
        cpus = sum(job.granted.cpus for job in self._running)
        memory = sum(job.granted.memory or 0.0 for job in self._running)
        return (
            cpus + granted.cpus <= self.machine.cpus
            and memory + (granted.memory or 0.0) <= self.machine.memory
            and granted.gpus <= len(self._free_gpus)
        )

    def submit(self, job: StageJob) -> Job:
        """Start the process of a stage."""
        gpus = tuple(self._free_gpus[: job.granted.gpus])
        started = Job(
            job.task,
            job.entry,
            granted=job.granted,
            gpus=gpus,
            environment=job.environment,
            timeout=job.timeout,
            fresh=job.fresh,
            nursery=self.nursery,
        )
        started.counts = job.counts
        del self._free_gpus[: job.granted.gpus]
        self._running.append(started)
        return started

    def reattach(self, job: StageJob) -> Job | None:
        """Return None: processes of this machine end with their driver.

        Raises
        ------
        SetupError
            If a job of a cluster works on the stage.
        """
        ticket = read_ticket(job.entry)
        if ticket is not None and ticket.state != "over":
            raise SetupError(taken(job.entry, ticket))
        return None

    def events(self, handle: Job) -> Iterator[dict[str, Any]]:
        """Yield the events that have arrived."""
        return handle.events()

    def poll(self, handle: Job) -> int | None:
        """Return the exit status if the stage has ended; end it if it takes more memory than it was granted."""
        limit = handle.granted.memory
        if limit is not None and handle.ending != "oom":
            self._limit_memory(handle, limit)
        code = handle.poll()
        return OUT_OF_MEMORY if code is not None and handle.ending == "oom" else code

    def cancel(self, handle: Job, *, now: bool = False) -> None:
        """Ask a stage to save and stop; with `now`, end it."""
        if now:
            handle.kill()
        else:
            handle.stop()

    def release(self, handle: Job) -> None:
        """Free what belonged to a stage that has ended."""
        handle.close()
        self._running.remove(handle)
        self._looked.pop(handle.process.pid, None)
        order = gpu_numbers(self.machine.gpus)
        self._free_gpus = sorted([*self._free_gpus, *handle.gpus], key=order.index)

    def close(self) -> None:
        """End what still runs."""
        for job in list(self._running):  # only after an unexpected error
            job.kill()
            job.process.wait()
            self.release(job)
        self.nursery.close()

    def _limit_memory(self, handle: Job, limit: float) -> None:
        now = time.monotonic()
        if now - self._looked.get(handle.process.pid, 0.0) < _MEMORY_INTERVAL_S:
            return
        self._looked[handle.process.pid] = now
        taken = memory_of(handle.process.pid)
        if taken > limit:
            handle.ending = "oom"
            handle.error = {
                "message": f"took {taken / 1e9:.3g} GB of memory, and is granted {limit / 1e9:.3g} GB; raise 'memory:' "
                "of its resources"
            }
            handle.kill()


def memory_of(pid: int) -> int:
    """Return the resident memory of a process and all below it, in bytes."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def gpu_numbers(count: int) -> list[str]:
    """Return the numbers of the GPUs to give away, as ``CUDA_VISIBLE_DEVICES`` of this process has them."""
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return visible[:count] if len(visible) >= count else [str(number) for number in range(count)]
