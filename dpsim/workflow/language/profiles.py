"""Profiles: where the stages of a workflow run, chosen with ``--profile``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from dpsim.config import Config, Memory, Walltime
from dpsim.workflow.stage import Resources

ExecutorName = Literal["local", "dpdispatcher", "parsl"]


class Slots(Config):
    """What the stages of a run may use together."""

    cpu: Annotated[int, Field(ge=1)] | None = None
    """Cores; by default all that this process may use."""
    gpu: Annotated[int, Field(ge=0)] | None = None
    """GPUs; by default all of the machine."""
    memory: Memory | None = None
    """Memory, in bytes if it is a bare number; by default all of the machine."""


class Retries(Config):
    """How often a job is started again, by what ended it."""

    oom: Annotated[int, Field(ge=0, le=1000)] = 0
    """After it ran out of memory."""
    preempted: Annotated[int, Field(ge=0, le=1000)] = 20
    """After the cluster took it away: a failed node, a job of higher priority."""
    walltime: Annotated[int, Field(ge=0, le=1000)] = 100
    """After its time was over; a stage goes on from what it has saved."""
    error: Annotated[int, Field(ge=0, le=1000)] = 0
    """After any other failure of a stage without ``retries`` of its own; wrong input and a wrong setup are not
    repeated."""


class Profile(Config):
    """Settings of one machine, chosen with ``--profile``."""

    executor: ExecutorName = "local"
    """Where stages run: processes of this machine, jobs of a cluster (``dpdispatcher``), or processes inside of pilot
    jobs (``parsl``)."""
    fanout: ExecutorName | None = None
    """Where the points of a ``matrix`` and the models of an ``ensemble`` run; by default as other stages."""
    machine: str | dict[str, Any] | None = None
    """The cluster, as dpdispatcher has it: a mapping (``{batch_type: Slurm, context_type: LazyLocal, ...}``), a JSON or
    YAML file with one, or a name under ``machines:``."""
    here: list[str] = []
    """Stages, by name or type, that run on this machine whatever the executor is."""
    alone: list[str] = []
    """Stages, by name or type, that ``fanout`` leaves where other stages are, such as trainings of hours: a pilot ends
    with its driver, a job of a cluster does not."""
    pilot: str | Resources = Resources()
    """What each pilot job of Parsl takes: a name under ``resources:``, or ``{nodes, cpus, gpus, walltime, ...}``."""
    pilots: Annotated[int, Field(ge=1)] = 1
    """Pilot jobs at once."""
    jobs: Annotated[int, Field(ge=1)] = 100
    """Stages that are queued or running on the cluster at once."""
    poll: Annotated[Walltime, Field(ge=0.1)] = 10.0
    """Time between two questions to the cluster, s."""
    retries: Retries = Retries()
    on_stop: Literal["cancel", "leave"] = "cancel"
    """What becomes of the jobs when the run is stopped: they save and end, or are left to be found by the next
    ``dpsim run``."""
    python: str | None = None
    """Python of the cluster, by default the running one; dpsim is installed there."""
    slots: Slots = Slots()
    overrides: dict[str, Any] = {}
    """``stages.model.steps: 500`` and the like, as with ``--set``."""

    @field_validator("here", "alone")
    @classmethod
    def _named(cls, stages: list[str]) -> list[str]:
        if not all(stages):
            raise ValueError("each entry is the name or the type of a stage")
        return stages

    def executor_of(self, stage: str, uses: str, *, point: bool) -> ExecutorName:
        """Return where a stage runs.

        Parameters
        ----------
        stage, uses
            Name and type.
        point
            Whether it is one of several: a point of a matrix, a model of an ensemble.
        """
        if stage in self.here or uses in self.here:
            return "local"
        if self.fanout is None or not point or stage in self.alone or uses in self.alone:
            return self.executor
        return self.fanout
