"""What differs between schedulers: lines in the head of a script, asking for jobs, stopping them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from dpsim.errors import SetupError
from dpsim.workflow.executors.base import Ending
from dpsim.workflow.job import notice
from dpsim.workflow.planning.machines import dispatcher
from dpsim.workflow.stage import Resources

COMMENT: Final = "dpsim:"
_ID: Final = re.compile(r"[A-Za-z0-9_.\[\]@-]+")


class Answer(NamedTuple):
    """What a scheduler says of a job."""

    alive: bool
    state: Literal["queued", "running"] = "queued"
    detail: str = ""
    """Why it waits, where it runs, or how it ended."""
    ending: Ending = ""
    """What ended it, if the scheduler knows."""


def head_lines(batch: str, resources: Resources, ticket: str, memory: float | None) -> list[str]:
    """Return the lines of a script that dpdispatcher has no words for."""
    seconds = resources.walltime
    lines = []
    if batch == "Slurm":
        # What the cluster takes away comes back as another job, with the count of the profile.
        lines += ["#SBATCH --no-requeue", f"#SBATCH --comment={COMMENT}{ticket}"]
        if seconds:
            lines += [
                f"#SBATCH --time={math.ceil(seconds / 60)}",
                f"#SBATCH --signal=B:TERM@{math.ceil(notice(seconds))}",
            ]
        if memory:
            lines += [f"#SBATCH --mem={math.ceil(memory / 2**20)}M"]
    elif seconds:
        clock = f"{int(seconds) // 3600:02d}:{int(seconds) % 3600 // 60:02d}:{int(seconds) % 60:02d}"
        lines += {
            "PBS": [f"#PBS -l walltime={clock}"],
            "Torque": [f"#PBS -l walltime={clock}"],
            "SGE": [f"#$ -l h_rt={clock}"],
            "LSF": [f"#BSUB -W {math.ceil(seconds / 60)}"],
        }.get(batch, [])
    if memory and batch == "Torque":
        lines += [f"#PBS -l mem={math.ceil(memory / 2**20)}mb"]
    return [*lines, *(resources.lines or ())]


def cannot(batch: str, resources: Resources) -> str:
    """Return what of the resources cannot be passed on to a scheduler, an empty string if all can."""
    if resources.memory is not None and batch in ("PBS", "SGE", "LSF"):
        return f"memory is asked for differently on every {batch} cluster; write the line of yours under 'lines:'"
    if batch == "Shell":
        for name in ("queue", "partition", "lines"):
            if getattr(resources, name):
                return f"{name!r} means nothing to batch_type Shell, which has no queues; take it out"
        if (resources.nodes or 1) > 1:
            return "batch_type Shell runs on one node; lower 'nodes'"
    return ""


class Scheduler:
    """A scheduler, asked through dpdispatcher job by job.

    Parameters
    ----------
    machine
        dpdispatcher's.
    batch
        Its kind.
    """

    def __init__(self, machine: Any, batch: str) -> None:
        self.machine, self.batch = machine, batch

    def ask(self, jobs: Mapping[str, Any]) -> dict[str, Answer]:
        """Return what is known of jobs, by their number; `jobs` maps it to dpdispatcher's job."""
        states = dispatcher().JobStatus
        found = {}
        for job_id, job in jobs.items():
            state = self.machine.check_status(job)
            if state in (states.waiting, states.unsubmitted):
                found[job_id] = Answer(True, "queued")
            elif state in (states.running, states.completing, states.unknown):
                found[job_id] = Answer(True, "running")
            else:
                found[job_id] = Answer(False)
        return found

    def stop(self, job_id: str, pid_file: str) -> None:
        """Let the stage of a running job save and stop."""
        if self.batch == "Shell":
            self.call(f'kill -TERM "$(cat {shlex.quote(pid_file)})"')
        elif self.batch in ("PBS", "Torque"):
            self.call(f"qsig -s TERM {_checked(job_id)}")
        elif self.batch == "LSF":
            self.call(f"bkill -s TERM {_checked(job_id)}")

    def end(self, job: Any, pid_file: str) -> None:
        """End a job now."""
        if self.batch == "Shell":  # the script alone would be ended, not what it has started
            self.call(f'kill -KILL "$(cat {shlex.quote(pid_file)})" 2>/dev/null')
        self.machine.kill(job)

    def find(self, ticket: str) -> str:
        """Return the number of the job with a ticket, an empty string if the scheduler cannot tell."""
        return ""

    def call(self, command: str) -> tuple[int, str, str]:
        """Run a command where the scheduler is."""
        code, _, stdout, stderr = self.machine.context.block_call(command)
        return code, stdout.read().decode("utf-8", "replace"), stderr.read().decode("utf-8", "replace")


class Slurm(Scheduler):
    """Slurm, asked for all jobs at once."""

    def ask(self, jobs: Mapping[str, Any]) -> dict[str, Answer]:
        """Return what is known of jobs.

        Raises
        ------
        SetupError
            If the controller does not answer.
        """
        code, text, error = self.call("squeue -h --me -o '%i|%T|%r|%N'")
        if code != 0:
            raise SetupError(f"squeue does not answer: {error.strip()}")
        listed = {}
        for line in text.splitlines():
            job_id, state, reason, nodes = (*line.split("|"), "", "", "")[:4]
            listed[job_id.strip()] = _slurm_answer(state, reason, nodes)
        return {job_id: listed.get(job_id) or self._ended(job_id) for job_id in jobs}

    def stop(self, job_id: str, pid_file: str) -> None:
        """Send SIGTERM to the script, which passes it on."""
        self.call(f"scancel --signal=TERM --batch {_checked(job_id)}")

    def find(self, ticket: str) -> str:
        """Return the number of the job whose comment names a ticket."""
        code, text, _ = self.call("squeue -h --me -o '%i|%k'")
        for line in text.splitlines() if code == 0 else ():
            job_id, _, comment = line.strip().partition("|")
            if comment == COMMENT + ticket:
                return job_id
        return ""

    def _ended(self, job_id: str) -> Answer:
        """Return how a job ended that is no longer listed: the controller knows for minutes, accounting for ever."""
        code, text, _ = self.call(f"scontrol show job -o {_checked(job_id)}")
        found = re.search(r"\bJobState=(\w+)", text) if code == 0 else None
        if found is None:
            code, text, _ = self.call(f"sacct -j {_checked(job_id)} -X -n -P -o State")
            found = re.match(r"(\w+)", text) if code == 0 else None
        return _slurm_answer(found[1], "", "") if found else Answer(False, ending="preempted", detail="is unknown")


def _slurm_answer(state: str, reason: str, nodes: str) -> Answer:
    if state in ("PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"):
        return Answer(True, "queued", "" if reason == "None" else reason)
    if state in ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"):
        return Answer(True, "running", nodes)
    endings: dict[str, Ending] = {
        "TIMEOUT": "walltime",
        "DEADLINE": "walltime",
        "NODE_FAIL": "preempted",
        "BOOT_FAIL": "preempted",
        "PREEMPTED": "preempted",
        "REVOKED": "preempted",
        "OUT_OF_MEMORY": "oom",
        "CANCELLED": "cancelled",
    }
    return Answer(False, detail=state, ending=endings.get(state, ""))


def make_scheduler(machine: Any, batch: str) -> Scheduler:
    """Return what asks a machine of dpdispatcher."""
    return (Slurm if batch == "Slurm" else Scheduler)(machine, batch)


def _checked(job_id: str) -> str:
    """Return the number of a job, which was read from a file or a program, for a command."""
    if not _ID.fullmatch(job_id):
        raise SetupError(f"{job_id!r} is not the number of a job")
    return shlex.quote(job_id)


def refused(text: str) -> str:
    """Return what a scheduler said of a job that it did not take, from an error of dpdispatcher."""
    for pattern in (r"error message:(.*?)(?:\nreturn code|\Z)", r"error message: ?(.*)"):
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return _one_line(found[1].splitlines())
    return _one_line(text.splitlines())


def _one_line(lines: Iterable[str]) -> str:
    return "; ".join(line.strip() for line in lines if line.strip())
