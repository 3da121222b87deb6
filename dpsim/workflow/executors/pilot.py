"""Stages inside of pilot jobs, through Parsl: many short ones share an allocation instead of each waiting in a queue.

Each stage is a process of `dpsim.workflow.job` that a worker of the pilot starts, with a ticket like any other job.
Pilots end with their driver; if it was killed, the next one ends what it left and starts the stages again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from dpsim.errors import DpsimError, Interrupted, SetupError, StageError
from dpsim.workflow.context import Granted
from dpsim.workflow.executors.base import StageJob
from dpsim.workflow.executors.cluster_handle import ClusterHandle
from dpsim.workflow.job import STOP
from dpsim.workflow.planning.machines import full
from dpsim.workflow.planning.profile import Chosen
from dpsim.workflow.records import tickets
from dpsim.workflow.records.files import read_json, write_atomic
from dpsim.workflow.records.tickets import Ticket

_WALLTIME_S: Final = 3600.0
_IDLE_S: Final = 120.0
"""Time after which a pilot without work is given back."""
_CANCEL: Final = {"Slurm": "scancel", "PBS": "qdel", "LSF": "bkill"}
_OR_ALONE: Final = "or name the stage in 'alone:' of the profile"
_IN_ALLOCATION: Final = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


def run_stage(python: str, entry: str, ticket: str) -> int:
    """Run the job of a stage; return its exit status. Called by a worker of a pilot.

    Parameters
    ----------
    python
        The interpreter.
    entry, ticket
        Of the stage.
    """
    import subprocess

    return subprocess.call([python, "-P", "-m", "dpsim.workflow.job", entry, ticket])


class PilotExecutor:
    """Pilot jobs, started when there is work for them.

    Parameters
    ----------
    chosen
        The profile with what a pilot takes and the description of the cluster.
    run_dir
        The run directory; what Parsl writes is in its folder ``parsl``.
    """

    survives = False

    def __init__(self, chosen: Chosen, run_dir: Path) -> None:
        self.chosen = chosen
        self.folder = run_dir / "parsl"
        self.batch = str(full(chosen.machine)["batch_type"]) if chosen.machine else "Shell"
        self._handles: list[ClusterHandle] = []
        self._futures: dict[str, Future[int]] = {}
        self._kernel: Any = None
        self._pilots: dict[str, Any] = {}
        self._recorded: list[str] = []
        self._left: set[str] = set()
        """Stages that were in a pilot of a driver that is gone."""

    def room_for(self, granted: Granted) -> bool:
        """Whether fewer stages are out than the profile allows."""
        return len(self._handles) < self.chosen.profile.jobs

    def submit(self, job: StageJob) -> ClusterHandle:
        """Hand a stage to the pilots."""
        kernel, label = self._ready(job.granted)
        with tickets.alone(job.entry):
            earlier = tickets.read_ticket(job.entry)
            ticket = Ticket(
                tickets.new_ticket(),
                "parsl",
                "parsl",
                self.chosen.name,
                f"{job.run}.{job.task}",
                walltime=job.resources.walltime,
                fresh=job.fresh,
                state="queued",
                counts=dict(job.counts),
                earlier=(*earlier.earlier, earlier.ticket) if earlier else (),
            )
            tickets.forget_locks(job.entry, ticket.earlier)
            tickets.write_ticket(job.entry, ticket)
        handle = ClusterHandle(job)
        handle.take(ticket)
        handle.where = "waits for a pilot"
        if job.entry.key in self._left:
            self._left.remove(job.entry.key)
            handle.note("its pilot ended with the driver before this one; it is started again in another")
        python = self.chosen.profile.python or sys.executable
        self._futures[ticket.ticket] = kernel.submit(
            run_stage,
            app_args=(python, str(job.entry.path), ticket.ticket),
            executors=[label],
            cache=False,
            ignore_for_cache=(),
            app_kwargs={},
        )
        self._handles.append(handle)
        return handle

    def reattach(self, job: StageJob) -> ClusterHandle | None:
        """Return None: pilots end with their driver. What one that was killed left is told to stop.

        Raises
        ------
        SetupError
            If a job of another kind works on the stage.
        """
        ticket = tickets.read_ticket(job.entry)
        if ticket is not None and ticket.state != "over":
            if ticket.executor != "parsl":
                raise SetupError(tickets.taken(job.entry, ticket))
            _tell_to_stop(job.entry, ticket)
            tickets.write_ticket(job.entry, ticket, state="over")
            self._left.add(job.entry.key)
        return None

    def events(self, handle: ClusterHandle) -> Iterator[dict[str, Any]]:
        """Yield the events that have arrived."""
        return handle.events()

    def poll(self, handle: ClusterHandle) -> int | None:
        """Return the exit status if the stage has ended."""
        if handle.code is not None:
            return handle.code
        assert handle.ticket is not None
        self._record()
        handle.look(1.0)
        if handle.running_since and handle.state == "running":
            handle.where = f"pilot on {read_json(handle.folder / 'started.json').get('host', '?')}"
        if handle.timeout and handle.running_since and time.time() - handle.running_since > handle.timeout:
            handle.timed_out = True
            self.cancel(handle)
        future = self._futures[handle.ticket.ticket]
        if handle.exit is not None:
            self._conclude(handle, int(handle.exit.get("code", 1)))
        elif future.done():
            self._ended_otherwise(handle, future)
        elif handle.stop_at and (not handle.ran() or time.monotonic() > handle.stop_at):
            tickets.write_ticket(handle.entry, handle.ticket, state="over")  # it does nothing when its turn comes
            handle.code = Interrupted.exit_code
        return handle.code

    def cancel(self, handle: ClusterHandle, *, now: bool = False) -> None:
        """Ask a stage to save and stop; with `now`, do not wait for it."""
        assert handle.ticket is not None
        if not handle.stop_at:
            handle.stop_at = time.monotonic() + 30.0
            _tell_to_stop(handle.entry, handle.ticket)
        if now:
            handle.stop_at = time.monotonic()

    def release(self, handle: ClusterHandle) -> None:
        """Forget a stage that has ended."""
        assert handle.ticket is not None
        self._handles.remove(handle)
        self._futures.pop(handle.ticket.ticket, None)
        current = tickets.read_ticket(handle.entry)
        if current is not None and current.ticket == handle.ticket.ticket:
            tickets.write_ticket(handle.entry, current, state="over")

    def close(self) -> None:
        """End the pilots."""
        for handle in self._handles:  # only after an unexpected error
            assert handle.ticket is not None
            _tell_to_stop(handle.entry, handle.ticket)
        if self._kernel is not None:
            self._kernel.cleanup()
            self._kernel = None
            (self.folder / "pilots.json").unlink(missing_ok=True)

    # --- the end of a stage ----------------------------------------------------------------------------------

    def _conclude(self, handle: ClusterHandle, code: int) -> None:
        if code == Interrupted.exit_code and not handle.stop_at:
            handle.ending = "walltime"
        elif code == -signal.SIGKILL:
            handle.ending = "oom"
        handle.code = code

    def _ended_otherwise(self, handle: ClusterHandle, future: Future[int]) -> None:
        """The worker is gone, or what it started left no exit status."""
        error = future.exception()
        handle.code = Interrupted.exit_code if handle.stop_at else StageError.exit_code
        if error is None:
            handle.look(0.0)  # its last words may have come between two looks
            if handle.exit is not None:
                self._conclude(handle, int(handle.exit.get("code", 1)))
                return
            handle.ending = "preempted"
            handle.error = {"message": f"its job in the pilot ended with status {future.result()} without saying how"}
        elif type(error).__name__ in ("ManagerLost", "WorkerLost"):
            handle.ending = "preempted"
            handle.error = {"message": "its pilot ended"}
        else:
            handle.error = {"message": f"the pilots failed: {type(error).__name__}: {error}"}

    # --- pilots ------------------------------------------------------------------------------------------------

    def _ready(self, granted: Granted) -> tuple[Any, str]:
        """Return Parsl's kernel, and the label of the pilots for stages of this size."""
        if granted.nodes > 1:
            raise SetupError(f"a stage inside of a pilot runs on one node; lower 'nodes', {_OR_ALONE}")
        label = f"cpus{granted.cpus}-gpus{granted.gpus}"
        if label in self._pilots:
            return self._kernel, label
        _quiet()
        if self._kernel is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._end_leftovers()
        try:
            pilots = self._make(label, granted)
            if self._kernel is None:
                self._kernel = self._start_kernel(pilots)
            else:
                self._kernel.add_executors([pilots])
        except DpsimError:
            raise
        except Exception as error:  # providers raise many kinds
            raise SetupError(f"pilots cannot be started: {type(error).__name__}: {error}") from None
        self._pilots[label] = pilots
        return self._kernel, label

    def _start_kernel(self, pilots: Any) -> Any:
        from parsl.config import Config
        from parsl.dataflow.dflow import DataFlowKernel

        return DataFlowKernel(
            Config(
                executors=[pilots],
                run_dir=str(self.folder),
                strategy="simple",
                strategy_period=min(5.0, self.chosen.profile.poll),
                max_idletime=_IDLE_S,
                usage_tracking=0,
                initialize_logging=False,
            )
        )

    def _make(self, label: str, granted: Granted) -> Any:
        from parsl.executors import HighThroughputExecutor

        pilot = self.chosen.pilot
        inside = any(word in os.environ for word in _IN_ALLOCATION)
        local = self.batch == "Shell" or inside
        cpus = pilot.cpus or (len(os.sched_getaffinity(0)) if local else None)
        if cpus is not None and granted.cpus > cpus:
            message = f"the stage takes {granted.cpus} cores, a pilot has {cpus}; raise 'cpus' of the pilot"
            raise SetupError(f"{message}, {_OR_ALONE}")
        if granted.gpus > (pilot.gpus or 0):
            message = f"the stage takes {granted.gpus} GPUs, a pilot has {pilot.gpus or 0}; raise 'gpus' of the pilot"
            raise SetupError(f"{message}, {_OR_ALONE}")
        at_once = None if cpus is None else cpus // granted.cpus
        if granted.gpus and pilot.gpus:
            at_once = min(at_once or pilot.gpus, pilot.gpus // granted.gpus)
        return HighThroughputExecutor(
            label=label,
            address="127.0.0.1" if self.batch == "Shell" else None,
            provider=self._provider(pilot, local=local),
            cores_per_worker=granted.cpus,
            max_workers_per_node=at_once,
            available_accelerators=_accelerators(pilot.gpus or 0, granted.gpus),
            worker_logdir_root=str(self.folder),
            heartbeat_period=10,
            heartbeat_threshold=60,
        )

    def _provider(self, pilot: Any, *, local: bool) -> Any:
        """Return what gets nodes: this allocation, or the scheduler."""
        from parsl import launchers, providers

        nodes = pilot.nodes or 1
        common = {
            "nodes_per_block": nodes,
            "init_blocks": 0,
            "min_blocks": 0,
            "max_blocks": self.chosen.profile.pilots,
            "worker_init": _init_lines(self.chosen.resources),
            "launcher": launchers.SrunLauncher() if nodes > 1 else launchers.SingleNodeLauncher(),
        }
        if local:
            return providers.LocalProvider(**common)
        seconds = int(pilot.walltime or _WALLTIME_S)
        walltime = f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
        queue = pilot.queue or pilot.partition or self.chosen.resources.get("queue_name") or None
        lines = "\n".join([*self.chosen.resources.get("custom_flags", ()), *(pilot.lines or ())])
        common |= {"walltime": walltime, "scheduler_options": lines}
        if self.batch == "Slurm":
            return providers.SlurmProvider(
                partition=queue,
                cores_per_node=pilot.cpus,
                gpus_per_node=pilot.gpus or None,
                exclusive=pilot.cpus is None,
                mem_per_node=None if pilot.memory is None else max(1, int(pilot.memory / 2**30)),
                **common,
            )
        if pilot.memory is not None:
            raise SetupError(
                f"pilot: memory is not passed on to {self.batch}; write the line of your cluster in 'lines:'"
            )
        if self.batch == "PBS":
            select = f"ngpus={pilot.gpus}" if pilot.gpus else ""
            return providers.PBSProProvider(queue=queue, cpus_per_node=pilot.cpus or 1, select_options=select, **common)
        if self.batch == "LSF":
            return providers.LSFProvider(queue=queue, cores_per_node=pilot.cpus, **common)
        raise SetupError(f"pilots are started by Slurm, PBS, LSF and Shell, not by {self.batch}")

    def _record(self) -> None:
        """Write down what a later driver has to end if this one is killed."""
        jobs = sorted(str(job) for pilots in self._pilots.values() for job in pilots.blocks_to_job_id.values())
        if jobs != self._recorded:
            self._recorded = jobs
            processes = [pilots.interchange_proc.pid for pilots in self._pilots.values() if pilots.interchange_proc]
            record = {"batch": self.batch, "jobs": jobs, "processes": processes}
            write_atomic(self.folder / "pilots.json", json.dumps(record) + "\n")

    def _end_leftovers(self) -> None:
        """End the pilots of a driver that was killed."""
        record = read_json(self.folder / "pilots.json")
        if not record:
            return
        for pid in record.get("processes", []):
            _end_process(int(pid), "interchange")
        jobs = [str(job) for job in record.get("jobs", []) if str(job).isalnum()]
        if record.get("batch") in _CANCEL and jobs:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run([_CANCEL[record["batch"]], *jobs], capture_output=True, timeout=60)
        elif record.get("batch") == "Shell":
            for job in jobs:
                if job.isdigit():
                    _end_process(int(job), "parsl")
        (self.folder / "pilots.json").unlink(missing_ok=True)


def _tell_to_stop(entry: Any, ticket: Ticket) -> None:
    folder = tickets.folder(entry, ticket.ticket)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).touch()


def _accelerators(gpus: int, each: int) -> list[str]:
    """Return what each worker of a node sees as its GPUs."""
    if not each:
        return []
    return [",".join(str(number) for number in range(first, first + each)) for first in range(0, gpus - each + 1, each)]


def _init_lines(resources: Mapping[str, Any]) -> str:
    """Return shell lines that prepare a pilot, from dpdispatcher's resources."""
    lines = [f"module load {shlex.quote(str(name))}" for name in resources.get("module_list", ())]
    lines += [f"source {shlex.quote(str(name))}" for name in resources.get("source_list", ())]
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in resources.get("envs", {}).items()]
    return "\n".join([*lines, *resources.get("prepend_script", ())])


def _end_process(pid: int, word: str) -> None:
    """End a process with all below it, if it is the one that was written down."""
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if any(word in argument for argument in process.cmdline()):
            for one in (*process.children(recursive=True), process):
                with contextlib.suppress(psutil.Error):
                    one.kill()


def _quiet() -> None:
    """Keep Parsl's messages out of what the user sees; they are in its folder."""
    import logging

    logging.getLogger("parsl").setLevel(logging.CRITICAL)
